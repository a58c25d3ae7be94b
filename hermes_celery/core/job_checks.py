"""From what somebody typed to a job's definition, or to the reason why not.

A JobRequest is checked here once, at the border; what comes out makes sense everywhere else. What
each field may be stands in `core.fields`; here is what fields must be together, and with the
schedule. Nothing here reads a clock, a file or Redis: the rules that need the file system (does the
script exist?) are the callers'. The rules are Hermes' own (hermes-agent 0.19, cron/jobs.py as
recorded).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from hermes_celery.core.field_checks import check_name
from hermes_celery.core.field_types import check_fields
from hermes_celery.core.fields import BY_NAME, FIELDS, HOLDERS, TIMING_NAMES, Field
from hermes_celery.core.job import Job, JobRequest, JobSpec, JobState
from hermes_celery.core.policy import Overlap, Policy
from hermes_celery.core.schedule_text import text_of, zone_name
from hermes_celery.core.unknown_words import is_known
from hermes_celery.core.work import check_one_kind
from hermes_celery.errors import HermesCeleryError, JobError
from hermes_celery.instant import from_ms, iso, to_ms
from hermes_celery.schedule import Bounds, Schedule, ScheduleKind, parse

#: How far in the past a one-shot may lie and still be taken (Hermes' ONESHOT_GRACE_SECONDS).
ONE_SHOT_GRACE_MS = 120_000
_DEFAULT_NAME_LENGTH = 50
#: What a changed definition keeps of the old one.
_KEPT = ("created_ms", "managed_by", "declared_in")


def request_of(fields: Mapping[str, Any]) -> JobRequest:
    """A request of fields by their names, those of a policy among them. Raises JobError."""
    _check_names(fields)
    return JobRequest(**_gathered(fields, policy=Policy()))


def define(
    request: JobRequest, *, job_id: str, now: datetime, default_timezone: str
) -> tuple[JobSpec, datetime]:
    """Check a request and return the job's spec with its first instant.

    Raises JobError or ScheduleError that says what was given, what is wrong and what to do.
    """
    content = checked_content(request)
    written = text_of(request.schedule)
    schedule = parse(
        written,
        timezone=zone_name(
            default_timezone if request.timezone in (None, "") else request.timezone
        ),
        now=now,
        spread=job_id,
        bounds=Bounds.of(
            start=request.start,
            end=request.end,
            exclude=content["exclude"],
            jitter_seconds=request.jitter_seconds,
        ),
    )
    first = first_instant(schedule, now=now)
    spec = JobSpec(
        id=job_id,
        schedule=schedule.text,
        schedule_display=_display(schedule, written=written),
        timezone=schedule.timezone,
        anchor_ms=to_ms(now),
        created_ms=to_ms(now),
        repeat_times=repeat_times(request.repeat, schedule),
        **content,
    )
    return spec, first


def _display(schedule: Schedule, *, written: str) -> str:
    """A schedule for people: an interval as it was written, where Hermes shows `every 60m`."""
    if schedule.kind is not ScheduleKind.INTERVAL:
        return schedule.display
    return " ".join(written.split())


def redefine(
    old: JobSpec, changes: Mapping[str, Any], *, now: datetime, default_timezone: str
) -> tuple[JobSpec, datetime | None]:
    """Check changes (fields as in JobRequest or Policy) and return the new spec.

    With it comes the first instant of a new schedule, or None where the schedule goes on as it was:
    only a change of the schedule, its zone or its bounds starts it anew.

    Raises JobError or ScheduleError.
    """
    _check_names(changes)
    given = {field.name: field.given(field.of(old)) for field in FIELDS if not field.inside}
    if _runs_once(old) and old.repeat_times == 1:
        # That it runs once follows from its schedule, and goes with it.
        given["repeat"] = None
    changes = {**changes, **_orphans(changes)}
    request = JobRequest(**{**given, **_gathered(changes, policy=old.policy)})
    if not TIMING_NAMES.isdisjoint(changes):
        spec, first = define(request, job_id=old.id, now=now, default_timezone=default_timezone)
        kept = {name: getattr(old, name) for name in _KEPT}
        if spec.schedule == old.schedule and "schedule" not in changes:
            kept["schedule_display"] = old.schedule_display
        return msgspec.structs.replace(spec, **kept), first
    content = checked_content(request)
    times = repeat_times(request.repeat, old.compiled())
    return msgspec.structs.replace(old, repeat_times=times, **content), None


def edited(job: Job, changes: Mapping[str, Any], *, now: datetime, default_timezone: str) -> Job:
    """The job with changes (see `redefine`), planned anew where they say so."""
    spec, first = redefine(job.spec, changes, now=now, default_timezone=default_timezone)
    if first is not None:
        return planned_anew(job, spec, first=first)
    return continued(job, spec, now=now)


def planned_anew(job: Job, spec: JobSpec, *, first: datetime | None) -> Job:
    """The job with a new schedule; one that was over begins again, a paused one stays paused."""
    job = msgspec.structs.replace(job, spec=spec)
    if job.state is JobState.PAUSED or not is_known(job.state):
        return job
    completed = 0 if job.state is JobState.COMPLETED else job.completed
    return msgspec.structs.replace(
        job, state=JobState.SCHEDULED, next_run_at=first, completed=completed
    )


def continued(job: Job, spec: JobSpec, *, now: datetime) -> Job:
    """The job with a changed definition and the same schedule.

    One that was over goes on where the change gives it more runs. Raises JobError where its
    schedule has none left.
    """
    was, times = job.spec.repeat_times, spec.repeat_times
    job = msgspec.structs.replace(job, spec=spec)
    has_more = times != was and (times is None or times > job.completed)
    if job.state is not JobState.COMPLETED or not has_more:
        return job
    upcoming = first_instant(spec.compiled(), now=now)
    return msgspec.structs.replace(job, state=JobState.SCHEDULED, next_run_at=upcoming)


def _check_names(given: Mapping[str, Any]) -> None:
    unknown = sorted(set(given) - BY_NAME.keys() - {*HOLDERS})
    if unknown:
        names = ", ".join(BY_NAME)
        raise JobError(f"a job has no field {', '.join(unknown)}; fields are {names}")


def _gathered(fields: Mapping[str, Any], *, policy: Policy) -> dict[str, Any]:
    """The fields of a request, those of its policy put into it."""
    chosen = {name: fields[name] for name in fields if name in BY_NAME and BY_NAME[name].inside}
    whole = {name: value for name, value in fields.items() if name not in chosen}
    base = whole.get("policy", policy)
    if isinstance(base, Policy):
        base = msgspec.structs.replace(base, **chosen)
    return {**whole, "policy": base}


def _orphans(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that mean nothing any more after these changes, cleared."""
    return {
        field.name: field.empty
        for field in FIELDS
        if field.goes_with in changes
        and field.name not in changes
        and not _holds(field, changes[field.goes_with])
    }


def _holds(field: Field, value: Any) -> bool:
    if field.goes_with_value is None:
        return BY_NAME[field.goes_with].is_set(value)
    return bool(value == field.goes_with_value)


def _runs_once(spec: JobSpec) -> bool:
    try:
        return spec.compiled().kind is ScheduleKind.ONCE
    except HermesCeleryError:
        # Whatever it was, it is to be mended now.
        return False


def checked_content(request: JobRequest) -> dict[str, Any]:
    """The checked fields of a spec that do not depend on its schedule."""
    check_fields(request)
    content = {
        field.attribute: field.check(getattr(request, field.name))
        for field in FIELDS
        if field.check is not None and not field.inside
    }
    _check_together(content)
    content["policy"] = _checked_policy(request.policy)
    content["deliver"] = content["deliver"] or ("origin" if request.origin else "local")
    content["name"] = content["name"] or _default_name(content)
    check_name(content["name"])
    return content


def _check_together(content: Mapping[str, Any]) -> None:
    """Refuse fields that make no sense together, or one without another. Raises JobError."""
    check_one_kind({**content, "prompt": content["prompt"].strip()})
    if content["interpreter"] and not content["script"]:
        program = content["interpreter"]
        raise JobError(f"interpreter {program!r} is for scripts, and the job has none")
    if bool(content["group"]) != (content["group_limit"] is not None):
        raise JobError(
            "group and group_limit go together: whose runs are counted, and how many of them may "
            "run at once"
        )


def _checked_policy(policy: Policy) -> Policy:
    """The policy, words made what they mean, if it makes sense. Raises JobError."""
    policy = msgspec.convert(msgspec.to_builtins(policy), Policy)
    checked = {
        field.name: field.check(getattr(policy, field.name))
        for field in FIELDS
        if field.inside and field.check is not None
    }
    if policy.max_active is not None and policy.overlap is not Overlap.ALLOW:
        raise JobError("max_active goes with overlap 'allow' only; leave it out or allow overlap")
    return msgspec.structs.replace(policy, **checked)


def _default_name(content: Mapping[str, Any]) -> str:
    """A name made of what the job does."""
    task, http, skills = content["task"], content["http"], content["skills"]
    call = task.name if task else http.url if http else ""
    source = content["prompt"].strip() or (skills[0] if skills else "") or content["script"] or call
    shown = "".join(filter(str.isprintable, " ".join((source or "").split())))
    return shown[:_DEFAULT_NAME_LENGTH].strip() or "cron job"


def first_instant(schedule: Schedule, *, now: datetime) -> datetime:
    """When a schedule that is written now runs first.

    A one-shot may lie up to 120 s in the past, as in Hermes. Raises JobError when nothing is left.
    """
    if schedule.kind is ScheduleKind.ONCE:
        run_at = schedule.next_after(from_ms(to_ms(now) - ONE_SHOT_GRACE_MS - 1))
        if run_at is None:
            raise JobError(
                f"Requested one-shot time {schedule.text} is more than "
                f"{ONE_SHOT_GRACE_MS // 1000}s in the past and cannot be scheduled."
            )
        return run_at
    upcoming = schedule.next_after(now)
    if upcoming is None:
        raise JobError(f"{schedule.text!r} has no instant after {iso(now)}; give a later end")
    return upcoming


def repeat_times(repeat: int | None, schedule: Schedule) -> int | None:
    """How often a job runs: None is for ever; zero and less mean for ever, a one-shot runs once."""
    if repeat is not None and repeat > 0:
        return repeat
    return 1 if schedule.kind is ScheduleKind.ONCE else None
