"""Re-plan a job when its definition changes, or when it is resumed.

There are three cases. Another schedule begins now. The same schedule with other bounds or jitter
continues at the occurrence that was next; an interval with another start begins a new grid. A
change of any other field leaves the next instant as it is.

In all cases an occurrence is identified by its nominal instant, before jitter. An occurrence that
has run does not run again. An occurrence that was already past when a schedule began does not run
at all. A new jitter changes neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from hermes_celery.core.fields import TIMING
from hermes_celery.core.job import Job, JobSpec, JobState
from hermes_celery.core.job_checks import (
    ONE_SHOT_GRACE_MS,
    first_instant,
    first_meant,
    redefine,
)
from hermes_celery.core.unknown_words import is_known
from hermes_celery.errors import HermesCeleryError, JobError
from hermes_celery.instant import optional_from_ms, to_ms
from hermes_celery.schedule import Schedule, ScheduleKind

_replace = msgspec.structs.replace


def edited(job: Job, changes: Mapping[str, Any], *, now: datetime, default_timezone: str) -> Job:
    """Return the job with changes (see `redefine`). Raises JobError or ScheduleError."""
    spec = redefine(job.spec, changes, now=now, default_timezone=default_timezone)
    return replanned(job, spec, now=now)


def replanned(job: Job, spec: JobSpec, *, now: datetime) -> Job:
    """Return the job with a changed definition; a paused job stays paused.

    A job that has already had all its runs becomes completed. Raises JobError if no instant is
    left.
    """
    if not is_known(job.state):
        return _replace(job, spec=spec)
    if not _is_timed_otherwise(job.spec, spec):
        changed = _continued(job, spec, now=now)
    elif job.state is JobState.ERROR or _is_another(job.spec, spec):
        changed = _begun(job, spec, now=now)
    else:
        changed = _narrowed(job, spec, now=now)
    return over_if_used_up(changed)


def over_if_used_up(job: Job) -> Job:
    """Return the job, as completed if it is scheduled but has had all its runs."""
    if job.state is JobState.SCHEDULED and job.next_run_at and is_used_up(job):
        return _replace(job, state=JobState.COMPLETED, next_run_at=None)
    return job


def resumed(job: Job, *, now: datetime) -> Job:
    """Return the job with its schedule continued from now; a job that already runs is unchanged.

    Raises JobError if the job has nothing left to run.
    """
    if job.state is JobState.SCHEDULED and job.next_run_at is not None:
        return job
    schedule = job.spec.compiled()
    if is_used_up(job) or (is_once(schedule) and job.state is JobState.COMPLETED):
        raise JobError(f"Cannot resume: {why_over(job)}")
    spec = job.spec
    if is_once(schedule):
        # Including its jitter: a run that jitter delays is not in the past.
        upcoming = optional_from_ms(schedule.next_after_ms(to_ms(now) - ONE_SHOT_GRACE_MS - 1))
        if upcoming is None:
            raise JobError(
                f"Cannot resume: one-shot time {schedule.text} is in the past (grace window: "
                f"{ONE_SHOT_GRACE_MS // 1000}s) and will never fire."
            )
    else:
        spec = _replace(spec, anchor_ms=to_ms(now))
        upcoming = _going_on(job, spec, now=now)
    return _replace(
        job,
        spec=spec,
        state=JobState.SCHEDULED,
        paused_at=None,
        paused_reason=None,
        next_run_at=upcoming,
    )


def is_used_up(job: Job) -> bool:
    """Return whether a job has had as many runs as it may."""
    times = job.spec.repeat_times
    return times is not None and job.completed >= times


def is_once(schedule: Schedule) -> bool:
    """Return whether a schedule is a single instant."""
    return schedule.kind is ScheduleKind.ONCE


def why_over(job: Job) -> str:
    """Return why a completed job has no run left, and what to do."""
    times = job.spec.repeat_times
    if times is not None and is_used_up(job):
        over = f"it was started {job.completed} of {times} times and is over"
    else:
        over = "its schedule has no instant left"
    more = " or `--repeat`" if times is not None and times > 1 else ""
    return (
        f"{over}; `hermes-celery edit {job.id} --schedule ...`{more} gives it more runs, "
        f"`hermes-celery run {job.id}` one now"
    )


def _is_timed_otherwise(old: JobSpec, new: JobSpec) -> bool:
    return any(getattr(old, name) != getattr(new, name) for name in TIMING)


def _is_another(old: JobSpec, new: JobSpec) -> bool:
    """Return whether the schedule itself differs, apart from bounds and jitter."""
    if (old.schedule, old.timezone) == (new.schedule, new.timezone):
        return False
    try:
        before, now = (spec.compiled().unbounded for spec in (old, new))
    except HermesCeleryError:
        # The old schedule is invalid; this change repairs it.
        return True
    if is_once(before) and is_once(now):
        # It may be the same instant in another time zone.
        return before.next_after_ms(-1) != now.next_after_ms(-1)
    return not (before.kind is now.kind is ScheduleKind.INTERVAL and old.schedule == new.schedule)


def _begun(job: Job, spec: JobSpec, *, now: datetime) -> Job:
    """Return the job with a schedule that begins now; a completed job counts its runs again."""
    first = first_instant(spec.compiled(), now=now)
    is_over = job.state is JobState.COMPLETED or is_used_up(_replace(job, spec=spec))
    return _replace(
        job,
        spec=spec,
        state=JobState.PAUSED if job.state is JobState.PAUSED else JobState.SCHEDULED,
        next_run_at=first,
        completed=0 if is_over else job.completed,
    )


def _narrowed(job: Job, spec: JobSpec, *, now: datetime) -> Job:
    """Return the job with the same schedule under other bounds or jitter."""
    changed = _replace(job, spec=spec)
    if job.next_run_at is not None and job.state is not JobState.COMPLETED:
        return _replace(changed, next_run_at=_same_occurrence(job, spec, now=now))
    return _with_more(changed, first_meant(spec.compiled(), after_ms=to_ms(now)))


def _with_more(job: Job, upcoming: datetime | None) -> Job:
    """Return a job that had no next instant with the one it has now, unless it is used up."""
    if upcoming is None or is_used_up(job):
        return job
    state = JobState.SCHEDULED if job.state is JobState.COMPLETED else job.state
    return _replace(job, state=state, next_run_at=upcoming)


def _continued(job: Job, spec: JobSpec, *, now: datetime) -> Job:
    """Return the job with the same schedule; a completed job continues if it may run more often."""
    changed = _replace(job, spec=spec)
    is_more = spec.repeat_times != job.spec.repeat_times and not is_used_up(changed)
    if not is_more or (job.next_run_at is not None and job.state is not JobState.COMPLETED):
        return changed
    schedule = spec.compiled()
    if is_once(schedule):
        if job.state is not JobState.COMPLETED:
            return changed  # its only run is under way
        raise JobError(
            f"the one-shot {schedule.text} is over and its time does not come again; give another "
            "schedule"
        )
    return _with_more(changed, first_instant(schedule, now=now))


def _same_occurrence(job: Job, spec: JobSpec, *, now: datetime) -> datetime:
    """Return when the next occurrence is due under a changed definition, or the first one after it.

    Its nominal instant may be past: it was waiting for its jitter, or for a beat.
    """
    upcoming = first_meant(spec.compiled(), after_ms=min(_meant_ms(job) - 1, to_ms(now)))
    return first_instant(spec.compiled(), now=now) if upcoming is None else upcoming


def _going_on(job: Job, spec: JobSpec, *, now: datetime) -> datetime:
    """Return the first occurrence from now on whose nominal instant is not before the next one's.

    An occurrence that its jitter delays past now still runs, if the schedule is by the clock. An
    interval's grid begins now.
    """
    schedule = spec.compiled()
    upcoming = schedule.next_after(now)
    if upcoming is None or job.next_run_at is None:
        return first_instant(schedule, now=now)
    later = first_meant(schedule, after_ms=_meant_ms(job) - 1)
    return upcoming if later is None else max(upcoming, later)


def _meant_ms(job: Job) -> int:
    """Return the nominal instant of a job's next occurrence.

    If jitter does not explain the next instant, as after a migration, it is its own nominal
    instant.
    """
    next_ms = to_ms(job.next_run_at) if job.next_run_at else 0
    schedule = job.spec.compiled()
    meant_ms = schedule.nominal.latest_until_ms(next_ms)
    if meant_ms is None or schedule.next_after_ms(meant_ms - 1) != next_ms:
        return next_ms
    return meant_ms
