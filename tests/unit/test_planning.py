"""What one tick decides, with plain values."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from hermes_celery.errors import ScheduleError
from hermes_celery.instant import to_ms
from hermes_celery.planning import DueJob, Lateness, grace_ms, plan
from hermes_celery.schedule import from_hermes
from tests.support import NOON, a_spec, cases

NOON_MS = to_ms(NOON)
HOUR = 3_600_000


def due(schedule: str, *, next_run_ms: int, completed: int = 0, **fields: Any) -> DueJob:
    return DueJob(
        spec=a_spec(schedule, **fields), revision=1, next_run_ms=next_run_ms, completed=completed
    )


@pytest.mark.parametrize("case", cases("schedule.grace"), ids=lambda c: str(c["input"]["schedule"]))
def test_the_grace_is_half_a_period_within_its_bounds(case: dict[str, Any]) -> None:
    now = datetime.fromisoformat(case["input"]["now"])
    try:
        schedule = from_hermes(case["input"]["schedule"], timezone="UTC", now=now)
    except ScheduleError:
        # Hermes gives what it cannot read the smallest grace; here it never becomes a job.
        assert case["expected"]["grace_seconds"] == 120
        return
    found = grace_ms(schedule, now_ms=to_ms(now))
    assert found == case["expected"]["grace_seconds"] * 1000


def test_a_job_in_time_runs_its_instant_and_moves_to_the_next() -> None:
    decision = plan(due("0 * * * *", next_run_ms=NOON_MS + HOUR), now_ms=NOON_MS + HOUR + 5)
    assert (decision.occurrence_ms, decision.next_run_ms) == (NOON_MS + HOUR, NOON_MS + 2 * HOUR)
    assert decision.lateness is Lateness.ON_TIME


def test_of_many_missed_instants_the_latest_runs() -> None:
    decision = plan(due("0 * * * *", next_run_ms=NOON_MS + HOUR), now_ms=NOON_MS + 9 * HOUR + 1)
    assert decision.occurrence_ms == NOON_MS + 9 * HOUR
    assert decision.next_run_ms == NOON_MS + 10 * HOUR
    assert decision.lateness is Lateness.CATCH_UP


def test_an_instant_that_is_not_on_the_schedule_runs_as_stored() -> None:
    # An imported job may be due at a time that its expression does not have.
    odd = NOON_MS + 17 * 60_000
    assert plan(due("0 * * * *", next_run_ms=odd), now_ms=odd + 1000).occurrence_ms == odd


def test_the_last_repeat_has_no_next_but_keeps_one_in_case_it_is_skipped() -> None:
    decision = plan(
        due("every 1h", next_run_ms=NOON_MS + HOUR, repeat=3, completed=2), now_ms=NOON_MS + HOUR
    )
    assert (decision.next_run_ms, decision.next_if_skipped_ms) == (None, NOON_MS + 2 * HOUR)


def test_a_one_shot_has_no_next_however_late_it_is() -> None:
    decision = plan(due("in 1h", next_run_ms=NOON_MS + HOUR), now_ms=NOON_MS + 100 * HOUR)
    assert (decision.occurrence_ms, decision.next_run_ms) == (NOON_MS + HOUR, None)
    assert decision.next_if_skipped_ms is None


@pytest.mark.parametrize("case", cases("dispatch.kind@main"), ids=lambda c: str(c["input"]))
def test_a_late_dispatch_is_named_as_hermes_names_it(case: dict[str, Any]) -> None:
    late_ms = case["input"].get("late_s", 2 * 3600) * 1000
    start = NOON_MS + 4 * HOUR
    decision = plan(due("0 */4 * * *", next_run_ms=start), now_ms=start + late_ms + 1 - 1)
    if "past_grace" in case["input"]:
        decision = plan(due("0 */4 * * *", next_run_ms=start), now_ms=start + late_ms + 1)
    assert decision.lateness.value == case["expected"]["last_dispatch.kind"]
