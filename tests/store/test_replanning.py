"""Tests of past and coming occurrences after a job was edited, declared again or resumed."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any

import fakeredis
import pytest

from hermes_celery.core.job import Job, JobRequest, JobState, UnreadableJob
from hermes_celery.core.replanning import edited
from hermes_celery.errors import Conflict, JobError
from hermes_celery.instant import from_ms, to_ms
from hermes_celery.scheduling.declared_jobs import DeclaredJobs, synchronise
from hermes_celery.store import Database, Jobs
from tests.support import NOON, HandClock, Store

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def store() -> Store:
    return Store(Database(fakeredis.FakeRedis(decode_responses=True)), HandClock(NOON))


def add(store: Store, schedule: str, **fields: Any) -> Job:
    return store.cron.add(JobRequest(**{"schedule": schedule, "prompt": "x", **fields}))


def set_fields(store: Store, job: Job, **changes: Any) -> Job:
    """Set stored fields of the job, as ticks would leave them; return the job."""
    fields = {
        "next_ms" if name == "next_run_at" else name: value if value is None else _stored(value)
        for name, value in changes.items()
    }
    key = store.database.keys.job(job.id)
    for name, value in fields.items():
        if value is None:
            store.database.call("HDEL", key, name)
        else:
            store.database.call("HSET", key, name, value)
    return store.jobs.get(job.id)


def _stored(value: Any) -> Any:
    return to_ms(value) if hasattr(value, "tzinfo") else value


def nominal_instant(job: Job) -> Any:
    """Return the nominal instant of the job's next run."""
    assert job.next_run_at is not None
    ms = job.spec.compiled().nominal.latest_until_ms(to_ms(job.next_run_at))
    assert ms is not None
    return from_ms(ms)


def declare(store: Store, **fields: Any) -> dict[str, str]:
    request = JobRequest(**{"prompt": "x", "name": "job", **fields})
    declared = DeclaredJobs(manager="m", requests={"job": request}, default_timezone="UTC")
    report = synchronise(store.jobs, declared, now=store.cron.now)
    return report.refused


# --- no occurrence runs twice, and none from before the job existed


@pytest.mark.parametrize(
    "changes",
    [{"jitter_seconds": 58}, {"start": NOON}, {"exclude": ["0 3 * * *"]}, {"timezone": "+01:00"},
     {"schedule": "*/1 * * * *"}],
    ids=str,
)  # fmt: skip
def test_an_occurrence_that_has_run_does_not_run_again_after_an_edit(
    store: Store, changes: dict[str, Any]
) -> None:
    # The jitter depends on the job's id; one of these five is delayed by more than 5 s.
    for _ in range(5):
        job = add(store, "* * * * *")
        set_fields(store, job, next_run_at=NOON + 2 * MINUTE, completed=1)
    store.clock.advance(65)
    for job in store.jobs.all():
        assert nominal_instant(store.cron.edit(job.id, changes)) == NOON + 2 * MINUTE


def test_a_new_job_does_not_run_an_occurrence_from_before_its_creation(store: Store) -> None:
    store.clock.advance(201)
    for number in range(5):
        job = add(store, "*/10 * * * *", name=str(number), jitter_seconds=300)
        assert nominal_instant(job) == NOON + 10 * MINUTE


def test_a_declared_job_that_gets_jitter_does_not_run_an_occurrence_again(store: Store) -> None:
    declare(store, schedule="*/10 * * * *")
    set_fields(store, store.jobs.find("job"), next_run_at=NOON + 10 * MINUTE, completed=1)
    store.clock.advance(1)
    assert declare(store, schedule="*/10 * * * *", jitter_seconds=590) == {}
    assert nominal_instant(store.jobs.find("job")) == NOON + 10 * MINUTE


def delayed(store: Store, schedule: str = "0 13 * * *") -> Job:
    """Add a job due at 13:00 whose jitter is at least five minutes."""
    while True:
        job = add(store, schedule, jitter_seconds=3000)
        if job.next_run_at is not None and job.next_run_at > NOON + HOUR + 5 * MINUTE:
            return job


def test_an_occurrence_that_waits_for_its_jitter_is_not_lost_by_an_edit(store: Store) -> None:
    job = delayed(store)
    store.clock.advance(3700)
    for changes in ({"jitter_seconds": 0}, {"jitter_seconds": 2000}, {"end": NOON + 50 * HOUR}):
        assert nominal_instant(store.cron.edit(job.id, changes)) == NOON + HOUR


@pytest.mark.parametrize("schedule", ["0 13 * * *", "2026-06-22T13:00:00+00:00"])
def test_a_resumed_job_keeps_an_occurrence_that_waits_for_its_jitter(
    store: Store, schedule: str
) -> None:
    job = delayed(store, schedule)
    store.clock.advance(3601 + 200)
    store.cron.pause(job.id)
    assert store.cron.resume(job.id).next_run_at == job.next_run_at


def test_a_jitter_given_while_paused_does_not_bring_an_occurrence_back(store: Store) -> None:
    job = add(store, "* * * * *")
    set_fields(store, job, next_run_at=NOON + MINUTE, completed=1)
    store.cron.pause(job.id)
    store.cron.edit(job.id, {"jitter_seconds": 58})
    store.clock.advance(0.5)
    assert nominal_instant(store.cron.resume(job.id)) == NOON + MINUTE


def test_an_edit_overtaken_by_a_tick_is_repeated_from_the_new_next_instant(
    store: Store,
) -> None:
    job = add(store, "* * * * *")
    changed = edited(job, {"jitter_seconds": 50}, now=NOON, default_timezone="UTC")
    set_fields(store, job, next_run_at=NOON + 2 * MINUTE, completed=1)
    with pytest.raises(Conflict):
        store.jobs.change(changed, was=job)
    store.clock.advance(60)
    assert nominal_instant(store.cron.edit(job.id, {"jitter_seconds": 50})) == NOON + 2 * MINUTE


class _Overtaken(Jobs):
    """Jobs that a tick moves on right after their first read."""

    def get_many(self, ids: Collection[str]) -> dict[str, Job | UnreadableJob]:
        found = super().get_many(ids)
        for key in map(self._database.keys.job, ids):
            if self._database.call("HSETNX", key, "was_moved", 1):
                self._database.call("HSET", key, "next_ms", to_ms(NOON + 2 * MINUTE))
        return found


def test_a_declaration_overtaken_by_a_tick_is_still_written(store: Store) -> None:
    declare(store, schedule="* * * * *")
    store.jobs = _Overtaken(store.database)
    assert declare(store, schedule="* * * * *", jitter_seconds=50) == {}
    job = Jobs(store.database).find("job")
    assert (job.spec.jitter_seconds, job.completed) == (50, 0)


class _AlwaysOvertaken(Jobs):
    """Jobs that a tick moves on right after each read."""

    def get_many(self, ids: Collection[str]) -> dict[str, Job | UnreadableJob]:
        found = super().get_many(ids)
        for key in map(self._database.keys.job, ids):
            self._database.call("HINCRBY", key, "next_ms", 60_000)
        return found


def test_a_declaration_overtaken_each_time_is_left_for_the_next_sync(store: Store) -> None:
    declare(store, schedule="* * * * *")
    jobs = _AlwaysOvertaken(store.database)
    request = JobRequest(schedule="* * * * *", prompt="x", name="job", jitter_seconds=50)
    declared = DeclaredJobs(manager="m", requests={"job": request}, default_timezone="UTC")
    report = synchronise(jobs, declared, now=store.cron.now)
    assert (report.has_more, report.refused, report.changed) == (True, {}, ())
    assert not synchronise(store.jobs, declared, now=store.cron.now).has_more


@pytest.mark.parametrize("is_declared", [False, True])
def test_raising_repeat_during_the_last_run_continues_the_schedule(
    store: Store, is_declared: bool
) -> None:
    fields: dict[str, Any] = {"schedule": "every 1h", "name": "job"}
    if is_declared:
        declare(store, repeat=3, **fields)
    else:
        add(store, repeat=3, **fields)
    job = set_fields(store, store.jobs.find("job"), next_run_at=None, completed=3)
    store.clock.advance(3 * 3600 + 60)
    if is_declared:
        assert declare(store, repeat=5, **fields) == {}
    else:
        store.cron.edit(job.id, {"repeat": 5})
    changed = store.jobs.get(job.id)
    assert changed.next_run_at == NOON + 4 * HOUR
    assert store.database.call("ZSCORE", store.database.keys.due, job.id)


def test_repeat_of_a_one_shot_can_be_raised_during_its_run(store: Store) -> None:
    job = set_fields(store, add(store, "in 1s"), next_run_at=None, completed=1)
    changed = store.cron.edit(job.id, {"repeat": 2})
    assert (changed.state, changed.next_run_at) == (JobState.SCHEDULED, None)


@pytest.mark.parametrize(
    ("fields", "before", "change", "meanwhile"),
    [
        ({"repeat": 3}, {"completed": 2}, {"repeat": 5}, {"next_run_at": None, "completed": 3}),
        ({}, {"completed": 2}, {"repeat": 3},
         {"next_run_at": NOON + 2 * HOUR, "completed": 3}),
    ],
    ids=["more runs", "fewer runs"],
)  # fmt: skip
def test_an_edit_of_repeat_conflicts_if_a_tick_moved_the_job_meanwhile(
    store: Store,
    fields: dict[str, Any],
    before: dict[str, Any],
    change: dict[str, Any],
    meanwhile: dict[str, Any],
) -> None:
    job = set_fields(store, add(store, "every 1h", **fields), **before)
    changed = edited(job, change, now=NOON, default_timezone="UTC")
    set_fields(store, job, **meanwhile)
    with pytest.raises(Conflict):
        store.jobs.change(changed, was=job)


def test_a_later_end_schedules_a_job_that_its_last_run_has_completed_meanwhile(
    store: Store,
) -> None:
    job = add(store, "every 1h", end=NOON + HOUR)
    job = set_fields(store, job, next_run_at=None, completed=1)
    changed = edited(job, {"end": NOON + 9 * HOUR}, now=NOON + HOUR, default_timezone="UTC")
    set_fields(store, job, state="completed")
    with pytest.raises(Conflict):
        store.jobs.change(changed, was=job)
    store.clock.advance(3600)
    changed = store.cron.edit(job.id, {"end": NOON + 9 * HOUR})
    assert (changed.state, changed.next_run_at) == (JobState.SCHEDULED, NOON + 2 * HOUR)


@pytest.mark.parametrize(
    ("meanwhile", "then"),
    [
        ({"state": "paused", "paused_ms": to_ms(NOON), "paused_reason": "3 failures in a row"},
         JobState.PAUSED),
        ({"state": "error"}, JobState.SCHEDULED),
    ],
    ids=["paused after failures", "taken off the schedule"],
)  # fmt: skip
def test_an_edit_of_the_schedule_conflicts_if_the_state_changed_meanwhile(
    store: Store, meanwhile: dict[str, Any], then: JobState
) -> None:
    """Neither change raises the revision."""
    job = add(store, "every 1h")
    changed = edited(job, {"schedule": "every 2h"}, now=NOON, default_timezone="UTC")
    set_fields(store, job, **meanwhile)
    with pytest.raises(Conflict):
        store.jobs.change(changed, was=job)
    changed = store.cron.edit(job.id, {"schedule": "every 2h"})
    assert (changed.state, changed.next_run_at) == (then, NOON + 2 * HOUR)


def test_an_edit_moves_a_next_run_off_the_grid_to_the_next_instant_of_the_grid(
    store: Store,
) -> None:
    # A job imported from another scheduler may have such a next instant.
    job = set_fields(store, add(store, "0 9 * * *"), next_run_at=NOON + 19 * HOUR, completed=1)
    changed = store.cron.edit(job.id, {"jitter_seconds": 5})
    assert nominal_instant(changed) == NOON + 21 * HOUR


def test_a_declared_job_in_the_error_state_is_completed_when_repeat_is_reached(
    store: Store,
) -> None:
    declare(store, schedule="every 1h", repeat=5)
    set_fields(store, store.jobs.find("job"), state="error", next_run_at=None, completed=4)
    assert declare(store, schedule="every 1h", repeat=3) == {}
    job = store.jobs.find("job")
    assert (job.state, job.next_run_at) == (JobState.COMPLETED, None)


# --- edits that change nothing, or keep the grid


def test_an_edit_that_changes_nothing_keeps_the_revision_and_the_count_of_failures(
    store: Store,
) -> None:
    job = add(store, "every 1h")
    key = store.database.keys.job(job.id)
    store.database.call("HSET", key, "failures", 4)
    assert store.cron.edit(job.id, {"group": None}).revision == job.revision
    assert store.database.call("HGET", key, "failures") == "4"
    assert store.cron.edit(job.id, {"group": "g", "group_limit": 1}).revision == job.revision + 1
    assert store.database.call("HGET", key, "failures") is None


@pytest.mark.parametrize(
    "changes",
    [{"end": None}, {"start": None}, {"exclude": ()}, {"timezone": "UTC"}, {"timezone": None},
     {"jitter_seconds": 0}, {"schedule": "every 60m"}, {"jitter_seconds": 60},
     {"end": NOON + 99 * HOUR}, {"timezone": "Asia/Tokyo"}],
    ids=str,
)  # fmt: skip
def test_an_option_given_repeatedly_does_not_move_the_grid(
    store: Store, changes: dict[str, Any]
) -> None:
    job = add(store, "every 1h")
    for _ in range(4):
        store.clock.advance(600)
        changed = store.cron.edit(job.id, changes)
        assert changed.spec.anchor_ms == job.spec.anchor_ms
        assert nominal_instant(changed) == NOON + HOUR


# --- completed jobs


def ran_once(store: Store) -> Job:
    job = add(store, "in 1s", name="z1")
    store.clock.advance(10)
    set_fields(store, job, state="completed", next_run_at=None, completed=1)
    return store.jobs.get(job.id)


def test_a_one_shot_that_ran_cannot_be_resumed(store: Store) -> None:
    job = ran_once(store)
    with pytest.raises(JobError, match="Cannot resume: it was started 1 of 1 times and is over"):
        store.cron.resume(job.id)
    assert store.jobs.get(job.id) == job


@pytest.mark.parametrize(
    "changes",
    [{"timezone": "UTC"}, {"timezone": "Asia/Tokyo"}, {"start": None}, {"end": None},
     {"start": NOON}, {"jitter_seconds": 30}, {"name": "z2"}],
    ids=str,
)  # fmt: skip
def test_a_one_shot_that_ran_stays_completed_after_other_edits(
    store: Store, changes: dict[str, Any]
) -> None:
    changed = store.cron.edit(ran_once(store).id, changes)
    assert (changed.state, changed.completed) == (JobState.COMPLETED, 1)
    assert changed.next_run_at is None


def test_a_one_shot_that_ran_runs_again_only_with_a_new_time(store: Store) -> None:
    job = ran_once(store)
    with pytest.raises(JobError, match="its time does not come again"):
        store.cron.edit(job.id, {"repeat": 2})
    again = store.cron.edit(job.id, {"schedule": "in 5m"})
    assert (again.state, again.completed) == (JobState.SCHEDULED, 0)


def test_a_job_is_completed_when_repeat_is_lowered_below_its_count(store: Store) -> None:
    job = set_fields(store, add(store, "* * * * *"), completed=7)
    changed = store.cron.edit(job.id, {"repeat": 3})
    assert (changed.state, changed.next_run_at) == (JobState.COMPLETED, None)
    keys = store.database.keys
    assert store.database.call("ZSCORE", keys.due, job.id) is None
    assert store.database.call("ZSCORE", keys.completed, job.id) is not None
    with pytest.raises(JobError, match="it was started 7 of 3 times and is over"):
        store.cron.resume(job.id)
    more = store.cron.edit(job.id, {"repeat": 9})
    assert (more.state, more.completed) == (JobState.SCHEDULED, 7)


def test_a_declared_job_is_completed_when_repeat_is_lowered_to_its_count(store: Store) -> None:
    declare(store, schedule="* * * * *")
    set_fields(store, store.jobs.find("job"), completed=1)
    assert declare(store, schedule="* * * * *", repeat=1) == {}
    job = store.jobs.find("job")
    assert (job.state, job.next_run_at, job.completed) == (JobState.COMPLETED, None, 1)


def test_a_job_that_becomes_a_one_shot_counts_from_zero(store: Store) -> None:
    job = set_fields(store, add(store, "* * * * *"), completed=7)
    changed = store.cron.edit(job.id, {"schedule": "in 5m"})
    assert (changed.completed, changed.spec.repeat_times) == (0, 1)


def test_a_later_end_schedules_a_completed_job_again_and_keeps_its_count(store: Store) -> None:
    job = add(store, "every 1h", end=NOON + HOUR)
    set_fields(store, job, state="completed", next_run_at=None, completed=1)
    store.clock.advance(3700)
    changed = store.cron.edit(job.id, {"end": NOON + 9 * HOUR})
    assert (changed.state, changed.completed) == (JobState.SCHEDULED, 1)
    assert changed.next_run_at == NOON + 2 * HOUR


# --- schedules that never run


@pytest.mark.parametrize(
    ("schedule", "fields", "why"),
    [
        ("in 30m", {"start": NOON + timedelta(days=30)}, "is outside its start and end"),
        ("2026-01-01T00:00", {}, "more than 120s in the past"),
        ("every 1h", {"end": NOON + MINUTE}, "within its start, end and exclusions"),
        ("every 1h", {"start": NOON.replace(year=9999)}, "within its start, end and exclusions"),
        ("0 0 1 1 * 0 2020", {}, "give another schedule"),
    ],
)
def test_a_schedule_that_never_runs_is_refused_with_the_reason(
    store: Store, schedule: str, fields: dict[str, Any], why: str
) -> None:
    with pytest.raises(JobError) as refused:
        add(store, schedule, **fields)
    assert why in str(refused.value)


def test_a_paused_job_stays_paused_after_an_edit(store: Store) -> None:
    job = add(store, "every 1h")
    store.cron.pause(job.id)
    for changes in ({"schedule": "every 2h"}, {"end": NOON + 9 * HOUR}, {"name": "n"}):
        assert store.cron.edit(job.id, changes).state is JobState.PAUSED
