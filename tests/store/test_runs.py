"""Tests of runs in the store: claimed once, finished only by the claim, rescued when forgotten."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hermes_celery.core.job import JobRequest
from hermes_celery.core.run import DeliveryState, Outcome, RunState, Trigger
from hermes_celery.errors import LeaseLost, RunNotFound
from hermes_celery.scheduling.run_rescue import LOST, Rescuer, RescueReport
from hermes_celery.store import check_run_id
from tests.support import NOON, Store, replaced

TOKEN = 7


@pytest.fixture
def run_id(store: Store) -> str:
    """Return the id of a manual run that is queued."""
    store.database.call("SET", store.database.keys.term, TOKEN)
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="n"))
    return store.cron.run(job.id)


def test_a_manual_run_does_not_change_the_schedule(store: Store, run_id: str) -> None:
    run = store.runs.get(run_id)
    assert (run.state, run.trigger, run.due_at) == (RunState.QUEUED, Trigger.MANUAL, NOON)
    job = store.cron.show("n")
    assert (job.next_run_at, job.completed) == (NOON + timedelta(hours=1), 0)
    assert store.queue() == [run_id]


def test_triggering_twice_with_one_key_makes_one_run(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    first = store.cron.run(job.id, key="click")
    store.clock.advance(1)
    assert store.cron.run(job.id, key="click") == first
    assert store.cron.run(job.id, key="other") != first
    assert len(store.queue()) == 2


def test_only_the_first_claim_gets_a_run(store: Store, run_id: str) -> None:
    claim = store.claim(run_id, token="a")
    assert (claim.spec.name, claim.attempt) == ("n", 1)
    assert store.runs.claim(run_id, token="b", now_ms=store.clock.ms, worker="w") == "taken"


def test_a_claim_repeated_with_its_token_returns_the_same_claim(store: Store, run_id: str) -> None:
    assert store.claim(run_id, token="a") == store.claim(run_id, token="a")


def test_a_run_that_does_not_exist_cannot_be_claimed(store: Store) -> None:
    ghost = "aaaaaaaaaaaa-20260622T120000Z"
    assert store.runs.claim(ghost, token="a", now_ms=0, worker="w") == "gone"
    with pytest.raises(RunNotFound):
        store.runs.get(ghost)


def test_a_run_whose_job_was_removed_is_cancelled_by_its_claim(store: Store, run_id: str) -> None:
    store.cron.remove("n")
    assert store.runs.claim(run_id, token="a", now_ms=store.clock.ms, worker="w") == "removed"
    run = store.runs.get(run_id)
    assert (run.state, run.reason) == (RunState.CANCELLED, "the job was removed")


def test_finishing_stores_the_output_and_updates_the_job(store: Store, run_id: str) -> None:
    claim = store.claim(run_id)
    store.clock.advance(2)
    outcome = Outcome(
        state=RunState.FAILED, output=b"\xff\x00out", stderr=b"err", error="boom", exit_code=3
    )
    assert store.runs.finish(claim, outcome, now_ms=store.clock.ms) == "ok"
    run = store.runs.get(run_id)
    assert (run.state, run.error, run.exit_code, run.worker) == (
        RunState.FAILED,
        "boom",
        3,
        "w@host",
    )
    assert (run.started_at, run.finished_at) == (NOON, NOON + timedelta(seconds=2))
    assert store.runs.output(run_id) == b"\xff\x00out"
    assert store.runs.stderr(run_id) == b"err"
    job = store.cron.show("n")
    assert (job.last_status, job.last_error, job.last_run_at) == ("error", "boom", run.finished_at)


def test_a_success_clears_the_last_error(store: Store, run_id: str) -> None:
    store.runs.finish(
        store.claim(run_id), Outcome(state=RunState.FAILED, error="boom"), now_ms=store.clock.ms
    )
    again = store.cron.run("n")
    store.runs.finish(
        store.claim(again), Outcome(state=RunState.SUCCEEDED, silent=True), now_ms=store.clock.ms
    )
    job = store.cron.show("n")
    assert (job.last_status, job.last_error) == ("ok", None)
    assert store.runs.get(again).delivery is DeliveryState.SILENT


def test_a_final_state_never_changes(store: Store, run_id: str) -> None:
    claim = store.claim(run_id)
    store.runs.finish(claim, Outcome(state=RunState.SUCCEEDED), now_ms=store.clock.ms)
    other = replaced(claim, token="other")
    again = Outcome(state=RunState.FAILED, error="no")
    assert store.runs.finish(other, again, now_ms=store.clock.ms) == "late"
    store.runs.finish(claim, again, now_ms=store.clock.ms)
    assert store.runs.get(run_id).state is RunState.SUCCEEDED
    assert store.cron.cancel(run_id) == "over"
    assert store.runs.get(run_id).state is RunState.SUCCEEDED


def test_finishing_twice_with_the_same_answer_is_not_an_error(store: Store, run_id: str) -> None:
    claim = store.claim(run_id)
    outcome = Outcome(state=RunState.SUCCEEDED)
    assert store.runs.finish(claim, outcome, now_ms=store.clock.ms) == "ok"
    assert store.runs.finish(claim, outcome, now_ms=store.clock.ms) == "ok"
    assert store.cron.show("n").last_run_at == NOON


def test_a_worker_without_the_claim_cannot_finish_a_run(store: Store, run_id: str) -> None:
    claim = store.claim(run_id, token="a")
    store.database.call("HSET", store.database.keys.run(run_id), "claim", "b")
    failed = Outcome(state=RunState.FAILED)
    assert store.runs.finish(claim, failed, now_ms=store.clock.ms) == "late"
    assert store.runs.get(run_id).state is RunState.RUNNING


def test_a_queued_run_is_cancelled_at_once(store: Store, run_id: str) -> None:
    assert store.cron.cancel(run_id, reason="why not") == "cancelled"
    run = store.runs.get(run_id)
    assert (run.state, run.reason) == (RunState.CANCELLED, "why not")
    assert store.runs.claim(run_id, token="a", now_ms=store.clock.ms, worker="w") == "taken"
    assert store.runs.counts() == {"queued": 0, "running": 0}


def test_a_running_run_learns_of_its_cancellation_from_its_heartbeat(
    store: Store, run_id: str
) -> None:
    claim = store.claim(run_id)
    beat = {run_id: claim.token}
    assert store.runs.heartbeat(beat, now_ms=store.clock.ms) == {run_id: "ok"}
    assert store.cron.cancel(run_id, reason="stop it") == "asked"
    assert store.runs.heartbeat(beat, now_ms=store.clock.ms) == {run_id: "cancel"}
    store.runs.finish(claim, Outcome(state=RunState.CANCELLED), now_ms=store.clock.ms)
    assert store.runs.get(run_id).reason == "stop it"


def test_a_heartbeat_without_the_claim_answers_lost(store: Store, run_id: str) -> None:
    store.claim(run_id, token="a")
    assert store.runs.heartbeat({run_id: "b"}, now_ms=store.clock.ms) == {run_id: "lost"}


def test_a_run_whose_heartbeat_stopped_is_lost_and_frees_its_job(store: Store, run_id: str) -> None:
    claim = store.claim(run_id)
    store.clock.advance(14.9)
    assert rescued(store).lost == 0
    store.runs.heartbeat({run_id: claim.token}, now_ms=store.clock.ms)
    store.clock.advance(14.9)
    assert rescued(store).lost == 0
    store.clock.advance(0.2)
    assert rescued(store).lost == 1
    run = store.runs.get(run_id)
    assert (run.state, run.error) == (RunState.LOST, LOST)
    assert store.database.call("EXISTS", store.database.keys.active(run.job_id)) == 0
    assert store.cron.show("n").last_error == LOST
    late = Outcome(state=RunState.SUCCEEDED, output=b"late")
    assert store.runs.finish(claim, late, now_ms=store.clock.ms) == "late"
    assert store.runs.get(run_id).state is RunState.LOST
    assert store.runs.output(run_id) == b""


def test_a_queued_run_is_pushed_again_after_waits_that_double(store: Store, run_id: str) -> None:
    store.database.call("DEL", store.messages.queue(store.cron.show("n").spec))
    pushed_at = []
    for second in range(1, 500):
        store.clock.advance(1)
        if rescued(store).redelivered:
            pushed_at.append(second)
    assert pushed_at == [60, 180, 420]
    assert store.queue() == [run_id] * 3
    assert store.claim(run_id).attempt == 1


def test_a_run_claimed_at_the_last_moment_does_not_expire(store: Store, run_id: str) -> None:
    claim = store.claim(run_id)
    store.runs.expire(run_id, now_ms=store.clock.ms, token=TOKEN)
    done = Outcome(state=RunState.SUCCEEDED)
    assert not store.database.call("HEXISTS", store.database.keys.run(run_id), "cancel")
    assert store.runs.finish(claim, done, now_ms=store.clock.ms) == "ok"
    assert store.runs.get(run_id).state is RunState.SUCCEEDED


def test_an_older_leader_rescues_nothing(store: Store, run_id: str) -> None:
    store.clock.advance(100)
    with pytest.raises(LeaseLost):
        Rescuer(store.jobs, store.runs, store.messages).rescue(
            token=TOKEN - 1, now_ms=store.clock.ms
        )
    assert store.queue() == [run_id]


def test_runs_are_listed_newest_first_by_job_state_and_time(store: Store) -> None:
    jobs = [store.cron.add(JobRequest(schedule="every 1h", prompt="x", name=name)) for name in "ab"]
    ids: dict[str, list[str]] = {"a": [], "b": []}
    for _ in range(3):
        for job in jobs:
            store.clock.advance(60)
            ids[job.name].append(store.cron.run(job.id))
    assert [r.id for r in store.cron.latest_runs("a")] == ids["a"][::-1]
    assert [r.id for r in store.cron.latest_runs(limit=2)] == [ids["b"][-1], ids["a"][-1]]
    store.cron.cancel(ids["a"][0])
    found = store.cron.latest_runs(state=RunState.CANCELLED)
    assert [r.id for r in found] == [ids["a"][0]]
    since = NOON + timedelta(seconds=300)
    assert [r.id for r in store.cron.latest_runs(since=since)] == [ids["b"][-1], ids["a"][-1]]


@pytest.mark.parametrize("text", ["", "x", "../../x", "aaaaaaaaaaaa", "aaaaaaaaaaaa-1; DEL *"])
def test_an_invalid_run_id_is_refused_without_asking_redis(text: str) -> None:
    with pytest.raises(RunNotFound):
        check_run_id(text)


def rescued(store: Store) -> RescueReport:
    return Rescuer(store.jobs, store.runs, store.messages).rescue(
        token=TOKEN, now_ms=store.clock.ms
    )


def test_runs_that_wait_behind_a_backlog_are_not_pushed_again(store: Store, run_id: str) -> None:
    for _ in range(110):
        store.cron.run("n")
    store.clock.advance(61)
    assert rescued(store).redelivered == 0
    assert len(store.queue()) == 111
    # All messages vanish; each run gets exactly one new message.
    store.database.call("DEL", store.messages.queue(store.cron.show("n").spec))
    store.clock.advance(121)
    while rescued(store).has_more:
        pass
    assert run_id in store.queue()
    assert len(store.queue()) == len(set(store.queue())) == 111


@pytest.mark.parametrize("value", ["junk", "9" * 19, " 7", ""])
@pytest.mark.parametrize(
    "name", ["hop", "handed_hop", "pushes", "retry_ms", "patience_ms", "on_queue_ms"]
)
def test_a_number_that_a_script_would_refuse_is_shown_as_a_fault_of_the_run(
    store: Store, run_id: str, name: str, value: str
) -> None:
    assert store.runs.get(run_id).fault is None
    store.database.call("HSET", store.database.keys.run(run_id), name, value)
    assert name in (store.runs.get(run_id).fault or "")


@pytest.mark.parametrize("value", ["-1", "1000001", "9" * 16])
@pytest.mark.parametrize("name", ["hop", "handed_hop"])
def test_a_hop_count_out_of_range_is_shown_as_a_fault_of_the_run(
    store: Store, run_id: str, name: str, value: str
) -> None:
    # With such a count every message of the run would be treated as a copy.
    store.database.call("HSET", store.database.keys.run(run_id), name, value)
    assert name in (store.runs.get(run_id).fault or "")
