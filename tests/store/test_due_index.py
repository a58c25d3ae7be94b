"""Tests of advancing: schedule, record and message in one step, fenced, compared, not repeated."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import redis

from hermes_celery.core.job import JobRequest, JobSpec, JobState
from hermes_celery.core.planning import DueJob, plan
from hermes_celery.core.policy import Overlap, Policy
from hermes_celery.core.run import Occurrence, Outcome, RunState
from hermes_celery.errors import LeaseLost, RecordBroken
from hermes_celery.scheduling.run_rescue import Rescuer
from hermes_celery.scheduling.tick import Ticker, TickReport
from hermes_celery.store import Advance, StepAnswer
from tests.support import NOON, PlainMessages, Store, a_job, replaced

TOKEN = 1


@pytest.fixture(autouse=True)
def _a_leader(store: Store) -> None:
    store.database.call("SET", store.database.keys.term, TOKEN)


def ticked(store: Store, token: int = TOKEN) -> TickReport:
    return Ticker(store.due, store.messages).tick(token=token, now_ms=store.clock.ms)


def test_nothing_is_due_before_its_time(store: Store) -> None:
    store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    store.clock.advance(3599.999)
    report = ticked(store)
    assert (report.dispatched, report.next_due_ms) == (0, store.clock.ms + 1)


def test_one_step_moves_the_schedule_records_the_run_and_pushes_the_message(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="n"))
    store.clock.advance(3600.5)
    assert ticked(store).dispatched == 1
    (run,) = store.cron.latest_runs()
    assert (run.job_id, run.job_name, run.state, run.attempt) == (job.id, "n", RunState.QUEUED, 1)
    assert (run.due_at, run.queued_at) == (
        NOON + timedelta(hours=1),
        NOON + timedelta(hours=1, milliseconds=500),
    )
    assert store.queue() == [run.id]
    after = store.cron.show(job.id)
    assert (after.next_run_at, after.completed) == (NOON + timedelta(hours=2), 1)
    assert ticked(store).dispatched == 0


def test_a_leader_older_than_the_fence_changes_nothing(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    store.clock.advance(3600)
    store.database.call("INCR", store.database.keys.term)
    with pytest.raises(LeaseLost):
        ticked(store)
    assert store.queue() == []
    assert store.cron.latest_runs() == []
    assert store.cron.show(job.id) == job


def test_a_job_edited_between_reading_and_advancing_answers_moved(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    store.clock.advance(3600)
    step = prepared(store)
    store.cron.edit(job.id, {"prompt": "y"})
    assert store.due.advance([step], token=TOKEN, now_ms=store.clock.ms) == [StepAnswer.MOVED]
    assert store.queue() == []
    assert ticked(store).dispatched == 1


def test_a_paused_or_removed_job_answers_moved(store: Store) -> None:
    paused = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    store.clock.advance(3600)
    step = prepared(store)
    store.cron.pause(paused.id)
    assert store.due.advance([step], token=TOKEN, now_ms=store.clock.ms) == [StepAnswer.MOVED]
    store.cron.remove(paused.id)
    assert store.due.advance([step], token=TOKEN, now_ms=store.clock.ms) == [StepAnswer.MOVED]
    assert store.queue() == []


def test_the_same_step_twice_dispatches_once(store: Store) -> None:
    store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    store.clock.advance(3600)
    step = prepared(store)
    first = store.due.advance([step], token=TOKEN, now_ms=store.clock.ms)
    second = store.due.advance([step], token=TOKEN, now_ms=store.clock.ms)
    assert (first, second) == ([StepAnswer.OK], [StepAnswer.MOVED])
    assert len(store.queue()) == 1


def test_a_batch_repeated_after_a_lost_answer_dispatches_once(
    store: Store,
) -> None:
    store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    store.clock.advance(3600)
    step = prepared(store)
    assert store.due.advance([], token=TOKEN, now_ms=store.clock.ms) == []
    answers = store.due.begin_advance([step], token=TOKEN, now_ms=store.clock.ms)
    (connection,) = store.database.client.connection_pool._in_use_connections
    whole = connection.read_response()
    assert whole == ["ok"]

    def lost(**_: object) -> None:
        del connection.read_response
        raise redis.exceptions.ConnectionError("reset by peer")

    connection.read_response = lost
    assert answers() == [StepAnswer.MOVED]
    assert len(store.queue()) == 1
    assert ticked(store).dispatched == 0


def test_a_script_that_the_server_has_forgotten_is_loaded_again(store: Store) -> None:
    store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    store.clock.advance(3600)
    store.database.call("SCRIPT", "FLUSH")
    assert ticked(store).dispatched == 1


def test_an_occurrence_with_a_record_is_never_run_again(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    store.clock.advance(3600)
    step = prepared(store)
    store.due.advance([step], token=TOKEN, now_ms=store.clock.ms)
    store.runs.finish(
        store.claim(step.run_id), Outcome(state=RunState.SUCCEEDED), now_ms=store.clock.ms
    )
    # Restore an older state of the job: the schedule stands at the same instant again.
    current = store.cron.show(job.id)
    store.jobs.change(replaced(current, next_run_at=NOON + timedelta(hours=1)), was=current)
    report = ticked(store)
    assert (report.ran, report.dispatched) == (1, 0)
    assert store.cron.show(job.id).next_run_at == NOON + timedelta(hours=2)


def test_an_overlapping_occurrence_is_skipped_and_says_why(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    store.clock.advance(3600)
    ticked(store)
    store.clock.advance(3600)
    report = ticked(store)
    assert (report.dispatched, report.overlapping) == (0, 1)
    (skipped,) = store.cron.latest_runs(state=RunState.SKIPPED)
    assert skipped.due_at == NOON + timedelta(hours=2)
    assert skipped.reason == "overlap: an earlier run still waits for a worker"
    after = store.cron.show(job.id)
    assert (after.next_run_at, after.completed) == (NOON + timedelta(hours=3), 1)


def test_many_missed_occurrences_make_one_run_on_the_grid(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    store.clock.advance(5 * 3600 + 900)
    assert ticked(store).dispatched == 1
    (run,) = store.cron.latest_runs(state=RunState.QUEUED)
    assert run.due_at == NOON + timedelta(hours=5)
    (missed,) = store.cron.latest_runs(state=RunState.SKIPPED)
    assert missed.reason == (
        "missed: 4 occurrences, 2026-06-22T13:00:00+00:00 to 2026-06-22T16:00:00+00:00"
    )
    assert store.cron.show(job.id).next_run_at == NOON + timedelta(hours=6)


def test_a_one_shot_runs_once_and_is_completed_when_its_run_ends(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="in 30m", prompt="x"))
    store.clock.advance(1800)
    ticked(store)
    waiting = store.cron.show(job.id)
    assert (waiting.state, waiting.next_run_at) == (JobState.SCHEDULED, None)
    (run_id,) = store.queue()
    store.runs.finish(store.claim(run_id), Outcome(state=RunState.SUCCEEDED), now_ms=store.clock.ms)
    over = store.cron.show(job.id)
    assert (over.state, over.completed, over.last_status) == (JobState.COMPLETED, 1, "ok")
    store.clock.advance(86_400)
    assert ticked(store).dispatched == 0


def test_repeat_counts_dispatched_runs_not_skipped_ones(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", repeat=2))
    store.clock.advance(3600)
    ticked(store)
    store.clock.advance(3600)
    assert ticked(store).overlapping == 1
    first = store.queue()[0]
    store.runs.finish(store.claim(first), Outcome(state=RunState.SUCCEEDED), now_ms=store.clock.ms)
    store.clock.advance(3600)
    assert ticked(store).dispatched == 1
    assert store.due.next_due_ms() is None
    second = store.queue()[1]
    store.runs.finish(store.claim(second), Outcome(state=RunState.SUCCEEDED), now_ms=store.clock.ms)
    over = store.cron.show(job.id)
    assert (over.state, over.completed) == (JobState.COMPLETED, 2)


def test_one_broken_job_never_stops_the_others(store: Store) -> None:
    broken = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="broken"))
    gone = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="gone"))
    unplannable = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="bad zone"))
    good = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="good"))
    keys = store.database.keys
    store.database.call("HSET", keys.job(broken.id), "spec", "{not json")
    store.database.call("DEL", keys.job(gone.id))
    spec = store.database.call("HGET", keys.job(unplannable.id), "spec")
    store.database.call(
        "HSET", keys.job(unplannable.id), "spec", spec.replace("every 1h", "every blue moon")
    )
    store.clock.advance(3600)
    report = ticked(store)
    assert (report.dispatched, report.broken) == (1, 3)
    assert [run.job_id for run in store.cron.latest_runs()] == [good.id]
    faulty = store.cron.show(unplannable.id)
    assert (faulty.state, faulty.last_status) == (JobState.ERROR, "error")
    assert "every blue moon" in (faulty.last_error or "")
    assert ticked(store) == replaced(
        ticked(store), dispatched=0, faults=(), next_due_ms=store.clock.ms + 3_600_000
    )


def test_a_job_with_a_key_of_the_wrong_type_is_put_off_and_the_others_run(store: Store) -> None:
    jobs = [
        store.cron.add(JobRequest(schedule="every 1h", prompt="x", name=f"job {number}"))
        for number in range(6)
    ]
    active = store.database.keys.active(jobs[2].id)
    store.database.call("SET", active, "x")
    store.clock.advance(3600)
    report = ticked(store)
    assert report.dispatched == 5
    assert [(fault.job_id, fault.key) for fault in report.faults] == [(jobs[2].id, active)]
    # The job is not tried at every tick.
    assert report.next_due_ms == store.clock.ms + 10_000
    assert (ticked(store).dispatched, ticked(store).faults) == (0, ())
    store.database.call("DEL", active)
    store.clock.advance(10)
    assert ticked(store).dispatched == 1
    assert {run.job_id for run in store.cron.latest_runs()} == {job.id for job in jobs}


def test_a_replacing_job_with_an_unreadable_held_list_stops_no_other_job(store: Store) -> None:
    replacing = store.cron.add(
        JobRequest(schedule="every 1h", prompt="x", policy=Policy(overlap=Overlap.REPLACE))
    )
    store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    store.database.call("SET", store.database.keys.held(replacing.id), "x")
    store.clock.advance(3600)
    report = ticked(store)
    assert (report.dispatched, report.broken) == (1, 1)


def test_an_index_of_the_wrong_type_is_named_and_nothing_is_written(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    store.clock.advance(3600)
    store.database.call("SET", store.database.keys.queued, "x")
    with pytest.raises(RecordBroken) as caught:
        ticked(store)
    assert caught.value.key == store.database.keys.queued
    assert store.cron.show(job.id) == job
    store.database.call("DEL", store.database.keys.queued)
    assert ticked(store).dispatched == 1


def test_a_batch_larger_than_one_call_is_split_and_loses_nothing(store: Store) -> None:
    for number in range(450):
        store.cron.add(JobRequest(schedule="every 1h", prompt="x", name=f"n{number}"))
    store.clock.advance(3600)
    assert [ticked(store).dispatched for _ in range(2)] == [450, 0]
    assert len(set(store.queue())) == 450


def test_a_tick_ends_after_two_thousand_jobs_and_the_next_one_goes_on(store: Store) -> None:
    for number in range(2_030):
        store.jobs.add(a_job(id=f"{number:012x}"))
    store.clock.advance(3600)
    assert [ticked(store).dispatched for _ in range(3)] == [2_000, 30, 0]
    assert len(set(store.queue())) == 2_030


def test_a_newer_leader_between_two_calls_stops_the_rest_of_the_batch(
    store: Store,
) -> None:
    """Calls already sent are refused too, and the connections can be used again."""
    for number in range(450):
        store.jobs.add(a_job(id=f"{number:012x}"))
    store.clock.advance(3600)

    class Overtaken(PlainMessages):
        def message(self, spec: JobSpec, **_: Any) -> bytes:
            if spec.id == f"{250:012x}":
                store.database.call("INCR", store.database.keys.term)
            return b"message"

    messages = Overtaken(store.database.keys.default_queue)
    with pytest.raises(LeaseLost):
        Ticker(store.due, messages).tick(token=TOKEN, now_ms=store.clock.ms)
    written = len(store.queue())
    assert written <= 200
    assert not store.database.client.connection_pool._in_use_connections
    assert ticked(store, token=TOKEN + 1).dispatched == 450 - written


def prepared(store: Store) -> Advance:
    """Return the next due job's step, planned but not written."""
    (due,) = store.due.due(store.clock.ms, limit=1)
    assert isinstance(due, DueJob)
    (step,) = plan(due, now_ms=store.clock.ms).steps
    run_id = Occurrence(job_id=due.spec.id, due_ms=step.occurrence_ms).run_id
    return Advance(
        due=due,
        step=step,
        run_id=run_id,
        queue=store.messages.queue(due.spec),
        message=run_id.encode(),
    )


def test_the_due_entry_of_a_job_that_is_not_scheduled_is_dropped(
    store: Store,
) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    store.clock.advance(3600)
    store.database.call("HSET", store.database.keys.job(job.id), "state", "paused")
    assert ticked(store).moved == 1
    assert store.due.next_due_ms() is None


def test_an_unreadable_job_does_not_stop_the_rescue_of_others(store: Store) -> None:
    runs = {}
    for name in ("torn", "good"):
        store.cron.add(JobRequest(schedule="every 1h", prompt="x", name=name))
        runs[name] = store.cron.run(name)
    torn = store.cron.show("torn")
    store.database.call("HSET", store.database.keys.job(torn.id), "spec", "{")
    store.clock.advance(61)
    report = Rescuer(store.jobs, store.runs, store.messages).rescue(
        token=TOKEN, now_ms=store.clock.ms
    )
    assert report.redelivered == 1
    assert store.runs.get(runs["torn"]).state is RunState.CANCELLED
