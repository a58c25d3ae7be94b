"""Tests of planning ahead: a tick only writes prepared steps, and stale steps are not used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest

from hermes_celery.core.job import JobRequest
from hermes_celery.core.planning import DueJob
from hermes_celery.core.policy import CatchUp, Overlap, Policy
from hermes_celery.core.run import RunState
from hermes_celery.scheduling import look_ahead
from hermes_celery.scheduling.look_ahead import LookAhead
from hermes_celery.scheduling.tick import Ticker, TickReport
from hermes_celery.store import BrokenJob, DueIndex
from tests.support import NOON, Store, a_job

TOKEN = 1


class Noting(DueIndex):
    """A due index that counts the jobs that it reads."""

    jobs_read = 0

    def begin_read(self, ids: Sequence[str]) -> Callable[[], list[DueJob | BrokenJob]]:
        self.jobs_read += len(ids)
        return super().begin_read(ids)


class Leader:
    """A leader that looks ahead and ticks."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.due = Noting(store.database)
        self.ahead = LookAhead(self.due, store.messages)

    def look(self) -> int:
        """Prepare everything within the horizon; return the number of prepared jobs."""
        while self.ahead.look(self.store.clock.ms):
            pass
        return len(self.ahead)

    def tick(self) -> TickReport:
        return Ticker(self.due, self.store.messages, ahead=self.ahead).tick(
            token=TOKEN, now_ms=self.store.clock.ms
        )


@pytest.fixture
def leader(store: Store) -> Leader:
    store.database.call("SET", store.database.keys.term, TOKEN)
    return Leader(store)


def add(store: Store, **fields: object) -> str:
    request = {"schedule": "every 1h", "prompt": "x", **fields}
    return store.cron.add(JobRequest(**request)).id  # type: ignore[arg-type]


def test_a_job_due_within_two_seconds_is_planned_ahead_and_then_only_written(
    store: Store, leader: Leader
) -> None:
    soon = add(store)
    store.clock.advance(1)
    add(store, name="later")
    store.clock.advance(3597.5)
    assert leader.look() == 1
    assert leader.due.jobs_read == 1
    store.clock.advance(1.5)
    report = leader.tick()
    assert (report.dispatched, leader.due.jobs_read) == (1, 1)
    assert [run.job_id for run in store.cron.latest_runs()] == [soon]
    assert report.next_due_ms == store.clock.ms + 1000


def test_a_prepared_job_is_not_dispatched_before_its_time(store: Store, leader: Leader) -> None:
    add(store)
    store.clock.advance(3599)
    leader.look()
    assert (leader.tick().dispatched, len(leader.ahead)) == (0, 1)


def test_the_index_is_read_again_only_when_the_horizon_has_moved(
    store: Store, leader: Leader
) -> None:
    store.clock.advance(3599)
    assert not leader.ahead.look(store.clock.ms)
    store.jobs.add(a_job("in 1h", now=store.cron.now - timedelta(hours=1) + timedelta(seconds=1)))
    assert leader.look() == 0, "the horizon was read already"
    store.clock.advance(1)
    assert leader.tick().dispatched == 1, "the tick itself finds the job"


def test_a_job_that_is_due_again_within_the_horizon_is_prepared_again(
    store: Store, leader: Leader
) -> None:
    """Its first occurrence was not prepared, and another prepared job is due later."""
    add(store, schedule="* * * * * *", policy=Policy(overlap=Overlap.ALLOW))
    add(store, schedule="in 2s")
    store.clock.advance(1)
    assert leader.tick().dispatched == 1
    assert leader.look() == 2
    read = leader.due.jobs_read
    store.clock.advance(1)
    assert (leader.tick().dispatched, leader.due.jobs_read) == (2, read)
    assert leader.look() == 1
    read = leader.due.jobs_read
    store.clock.advance(1)
    assert (leader.tick().dispatched, leader.due.jobs_read) == (1, read)


def test_a_job_edited_since_is_planned_again_in_the_same_tick(store: Store, leader: Leader) -> None:
    job_id = add(store, name="old")
    store.clock.advance(3599)
    leader.look()
    store.cron.edit(job_id, {"name": "new"})
    store.clock.advance(1)
    report = leader.tick()
    assert (report.moved, report.dispatched) == (1, 1)
    assert [run.job_name for run in store.cron.latest_runs()] == ["new"]


def test_a_job_paused_or_removed_since_does_not_run(store: Store, leader: Leader) -> None:
    paused, removed = add(store), add(store)
    store.clock.advance(3599)
    assert leader.look() == 2
    store.cron.pause(paused)
    store.cron.remove(removed)
    store.clock.advance(1)
    assert (leader.tick().dispatched, store.queue()) == (0, [])


def test_a_step_planned_before_the_end_of_a_global_pause_is_skipped(
    store: Store, leader: Leader
) -> None:
    add(store)
    store.clock.advance(3599)
    leader.look()
    store.cron.pause_all()
    store.clock.advance(1)
    assert leader.tick().paused
    store.cron.resume_all()
    report = leader.tick()
    assert (report.dispatched, report.skipped) == (0, 1)
    assert store.cron.latest_runs()[0].reason == "paused: 1 occurrence, 2026-06-22T13:00:00+00:00"


def test_a_late_plan_is_made_again(store: Store, leader: Leader) -> None:
    """A leader that was frozen must not assume that nothing was missed."""
    add(store)
    store.clock.advance(3599)
    leader.look()
    store.clock.advance(3 * 3600)
    report = leader.tick()
    assert (report.dispatched, report.skipped) == (1, 1)
    (run,) = store.cron.latest_runs(state=RunState.QUEUED)
    assert run.due_at == NOON + timedelta(hours=3)


def test_a_plan_whose_next_instant_has_come_is_made_again(store: Store, leader: Leader) -> None:
    add(store, schedule="* * * * * *")
    assert leader.look() == 1
    store.clock.advance(2)
    report = leader.tick()
    assert (report.dispatched, report.skipped) == (1, 1)
    (run,) = store.cron.latest_runs(state=RunState.QUEUED)
    assert run.due_at == NOON + timedelta(seconds=2)


def test_a_job_without_catch_up_and_grace_is_not_planned_ahead(
    store: Store, leader: Leader
) -> None:
    add(store, policy=Policy(catch_up=CatchUp.SKIP, grace_seconds=0))
    store.clock.advance(3599)
    assert leader.look() == 0
    store.clock.advance(1.1)
    assert leader.tick().skipped == 1


def test_a_replacing_job_cancels_its_earlier_run_only_when_it_is_due(
    store: Store, leader: Leader
) -> None:
    add(store, policy=Policy(overlap=Overlap.REPLACE))
    store.clock.advance(3600)
    leader.tick()
    store.clock.advance(3599)
    assert leader.look() == 1
    (first,) = store.cron.latest_runs()
    assert first.state is RunState.QUEUED
    store.clock.advance(1)
    assert leader.tick().dispatched == 1
    assert store.runs.get(first.id).state is RunState.CANCELLED


def test_the_last_occurrence_of_a_job_ends_its_schedule_when_planned_ahead(
    store: Store, leader: Leader
) -> None:
    job_id = add(store, repeat=1)
    store.clock.advance(3599)
    leader.look()
    store.clock.advance(1)
    assert leader.tick().dispatched == 1
    assert store.cron.show(job_id).next_run_at is None


def test_a_broken_job_is_reported_only_when_it_is_due(store: Store, leader: Leader) -> None:
    broken, good = add(store), add(store)
    store.database.call("HSET", store.database.keys.job(broken), "spec", "{not json")
    store.clock.advance(3599)
    assert leader.look() == 1
    store.clock.advance(1)
    report = leader.tick()
    assert (report.broken, report.dispatched) == (1, 1)
    assert [run.job_id for run in store.cron.latest_runs()] == [good]


def test_a_leader_that_forgets_its_plans_ticks_without_them(store: Store, leader: Leader) -> None:
    add(store)
    store.clock.advance(3599)
    leader.look()
    leader.ahead.forget()
    assert len(leader.ahead) == 0
    store.clock.advance(1)
    assert leader.tick().dispatched == 1


def test_the_number_of_prepared_jobs_is_limited(
    store: Store, leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look_ahead, "_MOST", 70)
    for number in range(100):
        store.jobs.add(a_job(id=f"{number:012x}"))
    store.clock.advance(3599)
    assert leader.look() == 70
    store.clock.advance(1)
    assert leader.tick().dispatched == 100
