"""Tests of runs that are published and not followed: ended at once, never pushed again."""

from __future__ import annotations

import zipfile
from datetime import timedelta

import pytest

from hermes_celery.core.job import Job, JobRequest, JobState
from hermes_celery.core.policy import CatchUp, Policy
from hermes_celery.core.run import DeliveryState, Occurrence, Run, RunState, Trigger
from hermes_celery.core.work import TaskCall
from hermes_celery.instant import to_ms
from hermes_celery.scheduling.tick import Ticker, TickReport
from hermes_celery.store import (
    Actor,
    Destination,
    DueIndex,
    Fate,
    Push,
    RequestedRun,
    UndeliveredRun,
)
from tests import version_0_1_0
from tests.support import NOON, Store

TOKEN = 7
WHY = "queue 'svc' is consumed by svc@host, which does not report"
CALL = TaskCall(name="svc.tick")


@pytest.fixture
def sending(store: Store) -> Store:
    """Return a store with a leader."""
    store.database.call("SET", store.database.keys.term, TOKEN)
    return store


def job_of(store: Store, schedule: str = "every 1m", **fields: object) -> Job:
    request = JobRequest(  # any of its fields
        **{"schedule": schedule, "task": CALL, "name": "n", **fields}  # type: ignore[arg-type]
    )
    return store.cron.add(request)


def ticked(store: Store, *, why: str = WHY) -> TickReport:
    due = DueIndex(store.database, why_sent=lambda spec, queue: why)
    return Ticker(due, store.messages).tick(token=TOKEN, now_ms=store.clock.ms)


def redelivered(store: Store, run: Run, fate: Fate) -> str:
    push = Push(queue=store.database.keys.default_queue, message=run.id.encode())
    return store.runs.redeliver(waiting(store, run), push, actor=leader(store), fate=fate)


def waiting(store: Store, run: Run) -> UndeliveredRun:
    return UndeliveredRun(run=run, seen_ms=deadline(store, run), push=0)


def leader(store: Store) -> Actor:
    return Actor(now_ms=store.clock.ms, token=TOKEN)


def deadline(store: Store, run: Run) -> int:
    return int(store.database.call("ZSCORE", store.database.keys.queued, run.id))


def test_a_sent_run_ends_in_the_step_that_pushes_it_and_does_not_block_the_next_one(
    sending: Store,
) -> None:
    job = job_of(sending)
    for _ in range(3):
        sending.clock.advance(60)
        assert ticked(sending).dispatched == 1
    runs = sending.runs.latest(job_id=job.id, limit=9)
    assert [run.id for run in reversed(runs)] == sending.queue()
    for run in runs:
        assert (run.state, run.reason, run.delivery) == (RunState.SENT, WHY, DeliveryState.NONE)
        assert run.finished_at == run.queued_at
        assert run.fault is None
    assert sending.runs.counts() == {"queued": 0, "running": 0}
    after = sending.cron.show("n")
    assert (after.last_status, after.last_run_at) == ("sent", NOON + timedelta(minutes=3))


def test_missed_occurrences_that_are_caught_up_together_are_all_sent(sending: Store) -> None:
    job_of(sending, policy=Policy(catch_up=CatchUp.ALL))
    sending.clock.advance(180)
    assert ticked(sending).dispatched == 3
    assert {run.state for run in sending.cron.latest_runs("n")} == {RunState.SENT}


def test_runs_of_prompts_are_never_sent(sending: Store) -> None:
    sending.cron.add(JobRequest(schedule="every 1m", prompt="x", name="ours"))
    sending.clock.advance(60)
    ticked(sending)
    assert sending.cron.latest_runs("ours")[0].state is RunState.QUEUED


def test_the_last_occurrence_completes_a_sent_job(sending: Store) -> None:
    job_of(sending, schedule="every 1m", repeat=1)
    sending.clock.advance(60)
    ticked(sending)
    assert sending.cron.show("n").state is JobState.COMPLETED


def test_a_sent_run_does_not_change_the_count_of_failures(sending: Store) -> None:
    job = job_of(sending)
    sending.database.call("HSET", sending.database.keys.job(job.id), "failures", 2)
    sending.clock.advance(60)
    ticked(sending)
    assert sending.database.call("HGET", sending.database.keys.job(job.id), "failures") == "2"


def test_a_sent_run_is_listed_by_its_state_and_cannot_be_cancelled(sending: Store) -> None:
    job_of(sending)
    sending.clock.advance(60)
    ticked(sending)
    (run,) = sending.cron.latest_runs("n", state=RunState.SENT)
    assert sending.cron.latest_runs("n", state=RunState.SUCCEEDED) == []
    assert sending.cron.cancel(run.id) == "over"
    assert sending.runs.has_run(run.id)


def test_a_manual_run_is_sent_as_well(sending: Store) -> None:
    job = job_of(sending)
    occurrence = Occurrence(job_id=job.id, due_ms=to_ms(NOON), manual="abcd")
    (run_id,) = sending.runs.trigger(
        job.spec,
        [RequestedRun(run_id=occurrence.run_id, message=occurrence.run_id.encode())],
        trigger=Trigger.MANUAL,
        now_ms=sending.clock.ms,
        to=Destination(queue=sending.database.keys.default_queue, why_sent=WHY),
        key="k",
    )
    assert sending.runs.get(run_id).state is RunState.SENT
    assert sending.queue() == [run_id]
    assert sending.cron.show("n").last_status == "sent"


def test_a_worker_with_hooks_executes_a_sent_run_once(sending: Store) -> None:
    job_of(sending)
    sending.clock.advance(60)
    ticked(sending)
    (run_id,) = sending.queue()

    def claim(token: str) -> object:
        return sending.runs.claim(run_id, token=token, now_ms=sending.clock.ms, worker="w@host")

    assert claim("a") == "sent"
    # The answer to the first claim was lost.
    assert claim("a") == "sent"
    assert claim("b") == "taken"
    run = sending.runs.get(run_id)
    assert (run.state, run.worker) == (RunState.SENT, "w@host")


def queued_run(store: Store) -> Run:
    """Return a run pushed before it was known who consumes its queue."""
    job_of(store)
    store.clock.advance(60)
    ticked(store, why="")
    (run,) = store.cron.latest_runs("n")
    return run


def test_a_run_whose_message_was_taken_is_not_pushed_again(sending: Store) -> None:
    run = queued_run(sending)
    fate = Fate(looks=True, when_gone="taken")
    assert redelivered(sending, run, fate) == "waiting"
    assert sending.queue() == [run.id]
    sending.database.call("RPOP", sending.database.keys.default_queue)
    assert redelivered(sending, run, fate) == "sent"
    assert sending.queue() == []
    ended = sending.runs.get(run.id)
    assert (ended.state, ended.reason) == (RunState.SENT, "taken")
    assert sending.runs.counts()["queued"] == 0


def test_a_run_whose_message_was_lost_is_pushed_again(sending: Store) -> None:
    run = queued_run(sending)
    sending.database.call("DEL", sending.database.keys.default_queue)
    assert redelivered(sending, run, Fate(looks=True)) == "ok"
    assert sending.queue() == [run.id]


def test_a_run_on_its_queue_is_not_ended_as_taken_and_keeps_its_deadline(
    sending: Store,
) -> None:
    run = queued_run(sending)
    seen_ms, seen = deadline(sending, run), waiting(sending, run)

    def end() -> bool:
        return sending.runs.end_sent(
            seen,
            queue=sending.database.keys.default_queue,
            why="taken",
            actor=leader(sending),
        )

    assert not end()
    assert (sending.queue(), deadline(sending, run)) == ([run.id], seen_ms)
    sending.database.call("RPOP", sending.database.keys.default_queue)
    assert end()
    assert sending.queue() == []


def test_a_message_that_was_never_pushed_is_pushed_and_its_run_ends_as_sent(sending: Store) -> None:
    run = queued_run(sending)
    sending.database.call("DEL", sending.database.keys.default_queue)
    sending.database.call("HSET", sending.database.keys.run(run.id), "unpushed", "1")
    assert redelivered(sending, run, Fate(looks=True, when_gone="taken", when_pushed=WHY)) == "sent"
    assert sending.queue() == [run.id]
    assert sending.runs.get(run.id).reason == WHY


def test_the_end_of_a_sent_run_releases_the_held_run(sending: Store) -> None:
    run = queued_run(sending)
    sending.database.call("RPOP", sending.database.keys.default_queue)
    job_id = run.job_id
    held = f"{job_id}-20260622T120500Z"
    keys = sending.database.keys
    sending.database.call("RPUSH", keys.held(job_id), f"{held}\0{held}")
    sending.database.call("HSET", keys.run(held), "state", "queued", "job_name", "n")
    assert redelivered(sending, run, Fate(looks=True, when_gone="taken")) == "sent"
    assert sending.queue() == [held]


def test_version_0_1_0_can_read_a_sent_run() -> None:
    """The stored word in `state` is one that 0.1.0 has."""
    with zipfile.ZipFile(version_0_1_0.WHEEL) as wheel:
        text = wheel.read("hermes_celery/run.py").decode()
    assert f'= "{RunState.SENT.stored}"' in text
    assert f'= "{RunState.SENT.value}"' not in text
