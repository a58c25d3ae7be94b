"""Tests of the soak's verdict: which jobs silently stopped, which output was not delivered."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hermes_celery.core.job import Job, JobState
from hermes_celery.core.run import Run, RunState, run_id_of
from hermes_celery.instant import to_ms
from tests.proof.delivery_receipts import Receipt
from tests.proof.soak_disturbances import in_time
from tests.proof.soak_verdict import delivery_counts, silently_stopped
from tests.support import NOON, a_job, replaced

END = NOON + timedelta(minutes=1)


def every_second(**fields: Any) -> Job:
    return a_job("every 1s", now=NOON - timedelta(hours=1), **fields)


def run(state: RunState, *, seconds: int, **fields: Any) -> Run:
    """Return a run that was due, and was queued, this many seconds after the minute began."""
    at = NOON + timedelta(seconds=seconds)
    return Run(
        id=run_id_of("a" * 12, to_ms(at)),
        job_id="a" * 12,
        job_name="works",
        due_at=at,
        queued_at=at,
        state=state,
        **fields,
    )


def stopped(job: Job, *runs: Run, cared_for: frozenset[str] = frozenset()) -> list[str]:
    return list(silently_stopped([job], runs, begun=NOON, until=END, cared_for=cared_for))


def test_a_job_without_a_run_in_the_last_minute_has_stopped() -> None:
    assert len(stopped(every_second())) == 1
    assert (
        len(
            stopped(
                every_second(),
                run(RunState.SUCCEEDED, seconds=-9, started_at=NOON - timedelta(seconds=9)),
            )
        )
        == 1
    )


def test_a_job_that_ran_in_the_last_minute_has_not_stopped() -> None:
    assert (
        stopped(
            every_second(),
            run(RunState.SUCCEEDED, seconds=5, started_at=NOON + timedelta(seconds=5)),
        )
        == []
    )


def test_a_job_that_was_not_due_has_not_stopped() -> None:
    assert stopped(a_job("every 1d", now=NOON)) == []


def test_a_job_in_the_error_state_has_not_silently_stopped() -> None:
    assert stopped(replaced(every_second(), state=JobState.ERROR)) == []


def test_a_job_with_a_skipped_run_has_not_silently_stopped() -> None:
    assert (
        stopped(every_second(), run(RunState.SKIPPED, seconds=5, reason="missed: 1 occurrence"))
        == []
    )


def test_schedules_are_in_time_when_nothing_is_overdue() -> None:
    assert in_time([], now_ms=5_000, late_ms=1_000)
    assert in_time([4_001, 9_000], now_ms=5_000, late_ms=1_000)
    assert not in_time([4_000, 9_000], now_ms=5_000, late_ms=1_000)


def test_an_overlap_with_a_dead_run_does_not_excuse_a_stopped_job() -> None:
    dead = run(RunState.QUEUED, seconds=-60)
    skipped = run(RunState.SKIPPED, seconds=5, reason="overlap: an earlier run still waits")
    assert len(stopped(every_second(), dead, skipped)) == 1
    assert stopped(every_second(), dead, skipped, cared_for=frozenset({dead.id})) == []


def test_undelivered_runs_are_reported_and_duplicates_counted() -> None:
    missing, twice = (run(RunState.SUCCEEDED, seconds=number) for number in (1, 2))
    receipts = [Receipt(target="", run_id=twice.id)] * 3
    assert delivery_counts([missing, twice], receipts, frozenset({"a" * 12})) == ([missing.id], 2)
