"""What one tick decides, before anything is written.

`plan` looks at a job and an instant and says which occurrence to dispatch and where the schedule
stands afterwards. It reads no clock and touches no store, so every rule about lateness can be
tested with plain values.

A job that was not ticked in time runs once for any number of missed occurrences, and its schedule
goes on from now (Hermes: "at most one run per tick, then fast-forward"). The occurrence that runs
is the latest one, because that is the one a later tick would not see again.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from hermes_celery.job import JobSpec
from hermes_celery.schedule import Kind, Schedule

_MIN_GRACE_MS = 120_000
_MAX_GRACE_MS = 7_200_000
#: Later than this a run is called late (Hermes' dispatch kinds).
_ON_TIME_MS = 300_000


class DueJob(msgspec.Struct, frozen=True, kw_only=True):
    """What the tick reads of a job that is due: all that planning and dispatch need."""

    spec: JobSpec
    revision: int
    next_run_ms: int
    completed: int


class Lateness(StrEnum):
    """How a dispatch relates to its nominal instant."""

    ON_TIME = "on_time"
    LATE = "late"
    #: Past its grace: it makes up for occurrences that nobody ticked.
    CATCH_UP = "catch_up"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The decision for one job. Instants are Unix milliseconds."""

    due: DueJob
    #: The occurrence to dispatch.
    occurrence_ms: int
    #: Where the schedule stands if the run is dispatched; None when that was the last one.
    next_run_ms: int | None
    #: Where it stands if the run is skipped: a skipped run does not count against `repeat`.
    next_if_skipped_ms: int | None
    lateness: Lateness


def plan(due: DueJob, *, now_ms: int) -> Plan:
    """Decide what happens to a job that is due at `now_ms`.

    Raises ScheduleError when the stored schedule cannot be read.
    """
    schedule = due.spec.compiled()
    if schedule.kind is Kind.ONCE:
        occurrence_ms, upcoming = due.next_run_ms, None
    else:
        occurrence_ms = _latest_occurrence(schedule, due.next_run_ms, now_ms)
        upcoming = schedule.next_after_ms(now_ms)
    times = due.spec.repeat_times
    is_last = times is not None and due.completed + 1 >= times
    return Plan(
        due=due,
        occurrence_ms=occurrence_ms,
        next_run_ms=None if is_last else upcoming,
        next_if_skipped_ms=upcoming,
        lateness=lateness(schedule, late_ms=now_ms - due.next_run_ms, now_ms=now_ms),
    )


def lateness(schedule: Schedule, *, late_ms: int, now_ms: int) -> Lateness:
    """Name a delay (Hermes' dispatch kinds): on time up to 300 s, late up to the grace."""
    if late_ms <= _MIN_GRACE_MS:
        return Lateness.ON_TIME
    if late_ms > grace_ms(schedule, now_ms=now_ms):
        return Lateness.CATCH_UP
    return Lateness.ON_TIME if late_ms <= _ON_TIME_MS else Lateness.LATE


def grace_ms(schedule: Schedule, *, now_ms: int) -> int:
    """How late is still on time: half a period, within 120 s and 2 h, as in Hermes."""
    if schedule.kind is Kind.ONCE:
        return _MIN_GRACE_MS
    if schedule.period_seconds is not None:
        period_ms = schedule.period_seconds * 1000
    else:
        first = schedule.next_after_ms(now_ms)
        second = schedule.next_after_ms(first) if first is not None else None
        if first is None or second is None:
            return _MIN_GRACE_MS
        period_ms = second - first
    return min(max(period_ms // 2, _MIN_GRACE_MS), _MAX_GRACE_MS)


def _latest_occurrence(schedule: Schedule, stored_ms: int, now_ms: int) -> int:
    """The last instant up to now; the stored one where the schedule itself has none since."""
    following = schedule.next_after_ms(stored_ms)
    if following is None or following > now_ms:
        return stored_ms
    latest = schedule.latest_until_ms(now_ms)
    return stored_ms if latest is None or latest < stored_ms else latest
