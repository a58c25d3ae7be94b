"""Decide what one tick does with a job, before anything is written.

`plan` takes a job and an instant. It returns the occurrences to dispatch or skip, and the next
instant of the schedule afterwards. It reads no clock and no store, so every rule about lateness can
be tested with plain values.

The job's policy decides which missed occurrences run. All that do not run share one record with
their number and their span. A plan is a chain of steps, and each step moves the schedule on from
where the previous one left it. So if only some of the steps are written, the others are still due.
"""

from __future__ import annotations

import msgspec

from hermes_celery.core.job import JobSpec
from hermes_celery.core.policy import CatchUp
from hermes_celery.core.run import EndReason
from hermes_celery.instant import from_ms, iso
from hermes_celery.schedule import Schedule, ScheduleKind

_MIN_GRACE_MS = 120_000
_MAX_GRACE_MS = 7_200_000
#: Missed occurrences are counted up to this number; then the record says "more than".
_MAX_COUNTED = 1000


class DueJob(msgspec.Struct, frozen=True, kw_only=True):
    """A due job: all that planning and dispatch need of it."""

    spec: JobSpec
    revision: int
    next_run_ms: int
    completed: int


class PlannedStep(msgspec.Struct, frozen=True, kw_only=True):
    """One occurrence to dispatch, or to record as skipped. Instants are Unix milliseconds."""

    #: The job's next instant before the step.
    seen_ms: int
    occurrence_ms: int
    #: The job's next instant if the run is admitted; None if it was the last run.
    next_run_ms: int | None
    #: The job's next instant if the run is skipped: a skipped run does not count for `repeat`.
    next_if_skipped_ms: int | None
    #: Why to skip it, regardless of the active runs; "" to dispatch it.
    skip: str = ""


class JobPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The decision for one job."""

    due: DueJob
    steps: tuple[PlannedStep, ...]


def plan(due: DueJob, *, now_ms: int, resumed_ms: int = 0) -> JobPlan:
    """Decide what happens to a job that is due at `now_ms`.

    Occurrences up to `resumed_ms`, the end of a pause of all jobs, are skipped. Raises
    ScheduleError if the stored schedule is invalid.
    """
    schedule = due.spec.compiled()
    if schedule.kind is ScheduleKind.ONCE:
        steps: tuple[PlannedStep, ...] = (_single(due, following=None),)
    else:
        following = schedule.next_after_ms(due.next_run_ms)
        in_time = due.next_run_ms > resumed_ms and (following is None or following > now_ms)
        if in_time and not _is_skipped(schedule, due, due.next_run_ms, now_ms):
            steps = (_single(due, following=following),)
        else:
            steps = _caught_up(schedule, due, now_ms=now_ms, resumed_ms=resumed_ms)
    return JobPlan(due=due, steps=steps)


def grace_ms(schedule: Schedule, spec: JobSpec, *, now_ms: int) -> int:
    """Return how late an occurrence still is on time.

    That is the job's own grace, or half a period within 120 s and 2 h.
    """
    if spec.policy.grace_seconds is not None:
        return spec.policy.grace_seconds * 1000
    if schedule.kind is ScheduleKind.ONCE:
        return _MIN_GRACE_MS
    if schedule.period_seconds is not None:
        period_ms = round(schedule.period_seconds * 1000)
    else:
        first = schedule.next_after_ms(now_ms)
        second = schedule.next_after_ms(first) if first is not None else None
        if first is None or second is None:
            return _MIN_GRACE_MS
        period_ms = second - first
    return min(max(period_ms // 2, _MIN_GRACE_MS), _MAX_GRACE_MS)


def _single(due: DueJob, *, following: int | None) -> PlannedStep:
    """Return the usual step: one occurrence is due, and in time."""
    return PlannedStep(
        seen_ms=due.next_run_ms,
        occurrence_ms=due.next_run_ms,
        next_run_ms=None if _is_last(due, earlier=0) else following,
        next_if_skipped_ms=following,
    )


def _caught_up(
    schedule: Schedule, due: DueJob, *, now_ms: int, resumed_ms: int
) -> tuple[PlannedStep, ...]:
    """Return the steps of a job with missed occurrences."""
    occurrences = _missed(schedule, due.next_run_ms, now_ms)
    upcoming = schedule.next_after_ms(now_ms)
    paused = [ms for ms in occurrences if ms <= resumed_ms]
    rest = [ms for ms in occurrences if ms > resumed_ms]
    wanted = _wanted(schedule, due, rest, now_ms=now_ms)
    dropped = rest[: len(rest) - len(wanted)]
    marks: list[tuple[int, str]] = []
    if paused:
        marks.append((paused[-1], _span(EndReason.PAUSED, paused)))
    if dropped:
        marks.append((dropped[-1], _span(EndReason.MISSED, dropped)))
    marks += [(ms, "") for ms in wanted]
    return _chain(due, marks, upcoming=upcoming)


def _wanted(schedule: Schedule, due: DueJob, missed: list[int], *, now_ms: int) -> list[int]:
    """Return the missed occurrences to run, oldest first: the latest ones, or none."""
    policy = due.spec.policy
    if policy.catch_up is CatchUp.ALL:
        return missed[-policy.catch_up_limit :]
    latest = missed[-1:]
    if latest and _is_skipped(schedule, due, latest[0], now_ms):
        return []
    return latest


def _is_skipped(schedule: Schedule, due: DueJob, occurrence_ms: int, now_ms: int) -> bool:
    """Return whether an occurrence is too late for a job that does not catch up."""
    if due.spec.policy.catch_up is not CatchUp.SKIP:
        return False
    return now_ms - occurrence_ms > grace_ms(schedule, due.spec, now_ms=now_ms)


def _missed(schedule: Schedule, first_ms: int, now_ms: int) -> list[int]:
    """Return all occurrences up to now, oldest first; of very many the first and the latest."""
    found = [first_ms]
    while len(found) < _MAX_COUNTED:
        following = schedule.next_after_ms(found[-1])
        if following is None or following > now_ms:
            return found
        found.append(following)
    return found + _latest(schedule, after_ms=found[-1], now_ms=now_ms)


def _latest(schedule: Schedule, *, after_ms: int, now_ms: int) -> list[int]:
    """Return the latest occurrences up to now, oldest first: enough for a catch-up of all."""
    found: list[int] = []
    latest = schedule.latest_until_ms(now_ms)
    while latest is not None and latest > after_ms and len(found) < _MAX_COUNTED:
        found.append(latest)
        latest = schedule.latest_until_ms(latest - 1)
    return found[::-1]


def _chain(
    due: DueJob, marks: list[tuple[int, str]], *, upcoming: int | None
) -> tuple[PlannedStep, ...]:
    """Chain the steps: each begins where the previous one leaves the schedule."""
    steps: list[PlannedStep] = []
    seen_ms, admitted = due.next_run_ms, 0
    for position, (occurrence_ms, skip) in enumerate(marks):
        following = marks[position + 1][0] if position + 1 < len(marks) else upcoming
        is_last = not skip and _is_last(due, earlier=admitted)
        steps.append(
            PlannedStep(
                seen_ms=seen_ms,
                occurrence_ms=occurrence_ms,
                next_run_ms=None if is_last else following,
                next_if_skipped_ms=following,
                skip=skip,
            )
        )
        if is_last or following is None:
            break
        seen_ms, admitted = following, admitted + (not skip)
    return tuple(steps)


def _is_last(due: DueJob, *, earlier: int) -> bool:
    """Return whether the next dispatched run is the last one that `repeat` allows."""
    times = due.spec.repeat_times
    return times is not None and due.completed + earlier + 1 >= times


def _span(word: EndReason, occurrences: list[int]) -> str:
    """Return the reason for skipping occurrences, with their number, first and last."""
    first, last = iso(from_ms(occurrences[0])), iso(from_ms(occurrences[-1]))
    if len(occurrences) == 1:
        return f"{word}: 1 occurrence, {first}"
    number = f"{len(occurrences):,}" if len(occurrences) < _MAX_COUNTED else "more than 1,000"
    return f"{word}: {number} occurrences, {first} to {last}"
