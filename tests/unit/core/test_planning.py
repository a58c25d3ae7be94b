"""`plan` decides what one tick does for one job, from plain values."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_celery.core.planning import DueJob, JobPlan, grace_ms, plan
from hermes_celery.core.policy import CatchUp, Policy, retry_wait_ms
from hermes_celery.errors import JobError, ScheduleError
from hermes_celery.instant import to_ms
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
        # Hermes uses the smallest grace for an unreadable schedule; here it never becomes a job.
        assert case["expected"]["grace_seconds"] == 120
        return
    found = grace_ms(schedule, a_spec(), now_ms=to_ms(now))
    assert found == case["expected"]["grace_seconds"] * 1000


def marks(decision: JobPlan) -> list[tuple[int, str]]:
    """Return each step as its hours after noon and the first word of its skip reason.

    The word is "" for a dispatched step.
    """
    return [
        ((step.occurrence_ms - NOON_MS) // HOUR, step.skip.partition(":")[0])
        for step in decision.steps
    ]


def test_a_job_on_time_runs_its_occurrence_and_moves_to_the_next() -> None:
    decision = plan(due("0 * * * *", next_run_ms=NOON_MS + HOUR), now_ms=NOON_MS + HOUR + 5)
    (step,) = decision.steps
    assert (step.occurrence_ms, step.next_run_ms) == (NOON_MS + HOUR, NOON_MS + 2 * HOUR)


def test_the_latest_missed_occurrence_runs_and_the_others_are_recorded() -> None:
    decision = plan(due("0 * * * *", next_run_ms=NOON_MS + HOUR), now_ms=NOON_MS + 9 * HOUR + 1)
    assert marks(decision) == [(8, "missed"), (9, "")]
    missed, run = decision.steps
    assert missed.skip == (
        "missed: 8 occurrences, 2026-06-22T13:00:00+00:00 to 2026-06-22T20:00:00+00:00"
    )
    assert (missed.seen_ms, missed.next_if_skipped_ms) == (NOON_MS + HOUR, run.seen_ms)
    assert run.next_run_ms == NOON_MS + 10 * HOUR


def test_catch_up_all_runs_missed_occurrences_up_to_the_limit() -> None:
    late = due(
        "0 * * * *",
        next_run_ms=NOON_MS + HOUR,
        policy=Policy(catch_up=CatchUp.ALL, catch_up_limit=3),
    )
    decision = plan(late, now_ms=NOON_MS + 5 * HOUR)
    assert marks(decision) == [(2, "missed"), (3, ""), (4, ""), (5, "")]
    steps = decision.steps
    assert [step.seen_ms for step in steps[1:]] == [step.next_run_ms or step.next_if_skipped_ms
                                                    for step in steps[:-1]]  # fmt: skip
    assert steps[-1].next_run_ms == NOON_MS + 6 * HOUR


def test_catch_up_skip_skips_occurrences_past_their_grace() -> None:
    policy = Policy(catch_up=CatchUp.SKIP)
    job = due("0 * * * *", next_run_ms=NOON_MS + HOUR, policy=policy)
    half = HOUR // 2
    assert marks(plan(job, now_ms=NOON_MS + HOUR + half)) == [(1, "")]
    assert marks(plan(job, now_ms=NOON_MS + HOUR + half + 1)) == [(1, "missed")]
    assert marks(plan(job, now_ms=NOON_MS + 3 * HOUR + 1)) == [(2, "missed"), (3, "")]


@pytest.mark.parametrize(
    ("catch_up", "grace", "late_seconds", "runs"),
    [
        ("skip", None, 14_400, False),
        ("skip", None, 30, True),
        ("latest", None, 14_400, True),
        ("skip", 18_000, 14_400, True),
        ("latest", 0, 30, True),
    ],
)
def test_catch_up_decides_as_in_the_recorded_cases_of_hermes(
    catch_up: str, grace: int | None, late_seconds: int, runs: bool
) -> None:
    # Hermes' cases `due.catchup@main`: its switch false is our skip, true and unset are latest.
    job = due(
        "every 1h",
        next_run_ms=NOON_MS + HOUR,
        policy=Policy(catch_up=CatchUp(catch_up), grace_seconds=grace),
    )
    now_ms = NOON_MS + HOUR + late_seconds * 1000
    # Exactly four hours late, the latest occurrence is within its grace again; 45 minutes later
    # it is not.
    now_ms += 45 * 60_000 if late_seconds > HOUR // 1000 and grace is None else 0
    decision = plan(job, now_ms=now_ms)
    assert any(not step.skip for step in decision.steps) == runs
    last = decision.steps[-1]
    assert (last.next_run_ms or 0) > now_ms or (last.next_if_skipped_ms or 0) > now_ms


def test_after_a_global_pause_the_schedule_continues_from_its_end() -> None:
    job = due("0 * * * *", next_run_ms=NOON_MS + HOUR)
    resumed = NOON_MS + 3 * HOUR + HOUR // 2
    assert marks(plan(job, now_ms=resumed + 1, resumed_ms=resumed)) == [(3, "paused")]
    later = plan(job, now_ms=NOON_MS + 5 * HOUR, resumed_ms=resumed)
    assert marks(later) == [(3, "paused"), (4, "missed"), (5, "")]
    once = due("in 1h", next_run_ms=NOON_MS + HOUR)
    assert marks(plan(once, now_ms=resumed + 1, resumed_ms=resumed)) == [(1, "")]


def test_the_plan_for_a_million_missed_occurrences_stays_small() -> None:
    job = due("* * * * *", next_run_ms=NOON_MS, policy=Policy(catch_up=CatchUp.ALL))
    now_ms = NOON_MS + 1_000_000 * 60_000
    decision = plan(job, now_ms=now_ms)
    assert len(decision.steps) == 101
    assert "more than 1,000" in decision.steps[0].skip
    assert decision.steps[-1].occurrence_ms == now_ms


def test_a_stored_instant_outside_the_schedule_runs_as_stored() -> None:
    # An imported job may be due at an instant that its expression does not produce.
    odd = NOON_MS + 17 * 60_000
    (step,) = plan(due("0 * * * *", next_run_ms=odd), now_ms=odd + 1000).steps
    assert step.occurrence_ms == odd


def test_the_last_repeat_has_a_next_instant_only_if_it_is_skipped() -> None:
    job = due("every 1h", next_run_ms=NOON_MS + HOUR, repeat=3, completed=2)
    (step,) = plan(job, now_ms=NOON_MS + HOUR).steps
    assert (step.next_run_ms, step.next_if_skipped_ms) == (None, NOON_MS + 2 * HOUR)


def test_catch_up_never_exceeds_repeat() -> None:
    policy = Policy(catch_up=CatchUp.ALL)
    job = due("every 1h", next_run_ms=NOON_MS + HOUR, repeat=3, completed=1, policy=policy)
    decision = plan(job, now_ms=NOON_MS + 9 * HOUR)
    assert marks(decision) == [(1, ""), (2, "")]
    assert decision.steps[-1].next_run_ms is None


def test_a_late_one_shot_has_no_next_instant() -> None:
    (step,) = plan(due("in 1h", next_run_ms=NOON_MS + HOUR), now_ms=NOON_MS + 100 * HOUR).steps
    assert (step.occurrence_ms, step.next_run_ms) == (NOON_MS + HOUR, None)
    assert step.next_if_skipped_ms is None


_steps = st.tuples(
    st.sampled_from(["every 7m", "*/5 * * * *", "0 9 * * *", "30 2 * * *"]),
    st.integers(0, 400_000),
    st.sampled_from(list(CatchUp)),
    st.one_of(st.none(), st.integers(1, 5)),
)


@given(_steps)
def test_planned_steps_form_a_chain_that_ends_in_the_future(
    drawn: tuple[str, int, CatchUp, int | None],
) -> None:
    text, late_seconds, catch_up, repeat = drawn
    spec = a_spec(text, repeat=repeat, policy=Policy(catch_up=catch_up))
    first = spec.compiled().next_after_ms(NOON_MS)
    assert first is not None
    now_ms = first + late_seconds * 1000
    job = DueJob(spec=spec, revision=1, next_run_ms=first, completed=0)
    steps = plan(job, now_ms=now_ms).steps
    assert steps[0].seen_ms == first
    for before, after in pairwise(steps):
        left = before.next_if_skipped_ms if before.skip else before.next_run_ms
        assert left == after.seen_ms
        assert before.occurrence_ms < after.occurrence_ms
    last = steps[-1]
    left = last.next_if_skipped_ms if last.skip else last.next_run_ms
    assert left is None or left > now_ms
    dispatched = sum(not step.skip for step in steps)
    assert dispatched <= (repeat or len(steps))
    assert all(step.occurrence_ms <= now_ms for step in steps)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"retries": -1}, "retries is -1; it must be 0 to 100"),
        ({"pause_after": 0}, "pause_after"),
        ({"max_active": 5}, "needs overlap 'allow'"),
        ({"expires_seconds": 0}, "expires_seconds"),
    ],
)
def test_an_invalid_policy_is_refused_with_the_reason(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(JobError, match=why):
        a_spec(policy=Policy(**changes))


@given(st.integers(1, 200), st.floats(0, 1))
def test_the_wait_between_attempts_grows_is_capped_and_jittered(
    attempt: int, jitter: float
) -> None:
    policy = Policy(retries=5, retry_wait_seconds=10, retry_max_seconds=100)
    longest = min(10_000 * 2 ** min(attempt - 1, 20), 100_000)
    wait = retry_wait_ms(policy, attempt=attempt, jitter=jitter)
    assert longest // 2 <= wait <= longest
