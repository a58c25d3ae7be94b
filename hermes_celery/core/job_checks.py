"""Turn a request into a job's definition, or refuse it with the reason.

A JobRequest is checked here once, where it enters; after that a definition is valid everywhere.
`core.fields` has the rules about single fields. This module has the rules about several fields
together, and about fields and the schedule. It reads no clock, no file and no Redis: rules that
need the file system (does the script exist?) are checked by the callers. The rules are Hermes' own
(hermes-agent 0.19, cron/jobs.py as recorded).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from difflib import get_close_matches
from typing import Any

import msgspec

from hermes_celery.core.arguments import not_storable
from hermes_celery.core.field_checks import MAX_REPEAT, check_name
from hermes_celery.core.field_types import check_fields
from hermes_celery.core.fields import BY_NAME, FIELDS, GRID, HOLDERS, TIMING_NAMES, Field
from hermes_celery.core.job import JobRequest, JobSpec
from hermes_celery.core.policy import Overlap, Policy
from hermes_celery.core.schedule_text import text_of, zone_name
from hermes_celery.core.work import check_one_kind
from hermes_celery.errors import HermesCeleryError, JobError, listed
from hermes_celery.instant import iso, optional_from_ms, to_ms
from hermes_celery.schedule import Bounds, Schedule, ScheduleKind, parse

#: How far in the past the time of a one-shot job may be (Hermes' ONESHOT_GRACE_SECONDS).
ONE_SHOT_GRACE_MS = 120_000
_DEFAULT_NAME_LENGTH = 50
#: Attributes that a changed definition keeps.
_KEPT = ("created_ms", "managed_by", "declared_in")


def request_of(fields: Mapping[str, Any]) -> JobRequest:
    """Make a request from fields by name, including those of the policy. Raises JobError."""
    _check_names(fields)
    return JobRequest(**_gathered(fields, policy=Policy()))


def define(
    request: JobRequest, *, job_id: str, now: datetime, default_timezone: str
) -> tuple[JobSpec, datetime]:
    """Check a request and return the job's spec and its first instant.

    Raises JobError or ScheduleError that says what was given, what is wrong and what to do.
    """
    spec, schedule = _defined(request, job_id=job_id, now=now, default_timezone=default_timezone)
    return spec, first_instant(schedule, now=now)


def _defined(
    request: JobRequest, *, job_id: str, now: datetime, default_timezone: str
) -> tuple[JobSpec, Schedule]:
    """Return the spec and the schedule of a request."""
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
    return spec, schedule


def _display(schedule: Schedule, *, written: str) -> str:
    """Return a schedule for people, an interval in the user's words.

    Hermes shows `every 60m` where the user wrote `every 1h`.
    """
    if schedule.kind is not ScheduleKind.INTERVAL:
        return schedule.display
    return " ".join(written.split())


def redefine(
    old: JobSpec, changes: Mapping[str, Any], *, now: datetime, default_timezone: str
) -> JobSpec:
    """Check changes (fields of JobRequest or Policy) and return the new spec.

    Raises JobError or ScheduleError.
    """
    _check_names(changes)
    given = {field.name: field.given(field.of(old)) for field in FIELDS if not field.inside}
    if _runs_once(old) and old.repeat_times == 1:
        # The old schedule made it run once; a new schedule decides again.
        given["repeat"] = None
    changes = {**changes, **_orphans(changes)}
    request = JobRequest(**{**given, **_gathered(changes, policy=old.policy)})
    if not TIMING_NAMES.isdisjoint(changes):
        spec, _ = _defined(request, job_id=old.id, now=now, default_timezone=default_timezone)
        if spec.schedule == old.schedule and "schedule" not in changes:
            spec = msgspec.structs.replace(spec, schedule_display=old.schedule_display)
        return with_beginning_of(old, spec)
    content = checked_content(request)
    times = repeat_times(request.repeat, old.compiled())
    return msgspec.structs.replace(old, repeat_times=times, **content)


def with_beginning_of(old: JobSpec, spec: JobSpec) -> JobSpec:
    """Return a changed definition that keeps what belongs to the old one.

    That includes an interval's grid. Only another schedule or start begins a new grid, so that
    repeated changes of other fields never keep a job from running.
    """
    kept = {name: getattr(old, name) for name in _KEPT}
    if all(getattr(spec, name) == getattr(old, name) for name in GRID):
        kept["anchor_ms"] = old.anchor_ms
    return msgspec.structs.replace(spec, **kept)


def _check_names(given: Mapping[str, Any]) -> None:
    unknown = sorted(map(str, given.keys() - BY_NAME.keys() - {*HOLDERS}))
    if unknown:
        meant = ", ".join(dict.fromkeys(filter(None, map(_meant, unknown))))
        advice = f"did you mean {meant}? Fields" if meant else "fields"
        raise JobError(f"a job has no field {listed(unknown)}; {advice} are {', '.join(BY_NAME)}")


def _meant(unknown: str) -> str:
    """Return the field of that option, else the one of the nearest name; "" if none is near."""
    options = {
        option.partition("/")[0].strip("-").replace("-", "_"): field.name
        for field in FIELDS
        for option in field.option
    }
    near = get_close_matches(unknown.lower(), BY_NAME, n=1)
    return options.get(unknown.lower(), near[0] if near else "")


def _gathered(fields: Mapping[str, Any], *, policy: Policy) -> dict[str, Any]:
    """Return the fields of a request, with the policy's fields put into its policy."""
    chosen = {name: fields[name] for name in fields if name in BY_NAME and BY_NAME[name].inside}
    whole = {name: value for name, value in fields.items() if name not in chosen}
    base = whole.get("policy", policy)
    if isinstance(base, Policy):
        base = msgspec.structs.replace(base, **chosen)
    return {**whole, "policy": base}


def _orphans(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return cleared values for fields that lose their meaning by these changes."""
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
        # The old schedule is invalid; this change repairs it.
        return False


def checked_content(request: JobRequest) -> dict[str, Any]:
    """Return the checked fields of a spec that do not depend on its schedule."""
    check_fields(request)
    content = {
        field.attribute: field.check(getattr(request, field.name))
        for field in FIELDS
        if field.check is not None and not field.inside
    }
    _check_together(content)
    content["policy"] = _checked_policy(request.policy)
    content["deliver"] = content["deliver"] or ("origin" if request.origin else "local")
    for name, value in content.items():
        _check_storable(name, value)
    content["name"] = content["name"] or _default_name(content)
    check_name(content["name"])
    return content


def _check_storable(name: str, value: Any) -> None:
    """Refuse a value with a text that UTF-8 cannot hold. Raises JobError."""
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError as error:
        raise not_storable(name, error) from None


def _check_together(content: Mapping[str, Any]) -> None:
    """Refuse fields that exclude each other, or that need another one. Raises JobError."""
    check_one_kind({**content, "prompt": content["prompt"].strip()})
    if content["interpreter"] and not content["script"]:
        program = content["interpreter"]
        raise JobError(f"interpreter {program!r} needs a script, and the job has none")
    if bool(content["group"]) != (content["group_limit"] is not None):
        raise JobError(
            "group and group_limit go together: the jobs whose runs are counted, and the number of "
            "runs at the same time"
        )


def _checked_policy(policy: Policy) -> Policy:
    """Check the policy and convert words to members of their enums. Raises JobError."""
    policy = msgspec.convert(msgspec.to_builtins(policy), Policy)
    checked = {
        field.name: field.check(getattr(policy, field.name))
        for field in FIELDS
        if field.inside and field.check is not None
    }
    if policy.max_active is not None and policy.overlap is not Overlap.ALLOW:
        raise JobError("max_active needs overlap 'allow'; leave it out or allow overlap")
    return msgspec.structs.replace(policy, **checked)


def _default_name(content: Mapping[str, Any]) -> str:
    """Make a name from what the job does."""
    task, http, skills = content["task"], content["http"], content["skills"]
    call = task.name if task else http.url if http else ""
    source = content["prompt"].strip() or (skills[0] if skills else "") or content["script"] or call
    shown = "".join(filter(str.isprintable, " ".join((source or "").split())))
    return shown[:_DEFAULT_NAME_LENGTH].strip() or "cron job"


def first_instant(schedule: Schedule, *, now: datetime) -> datetime:
    """Return the first instant of a schedule that is written now.

    An occurrence whose nominal instant is before now does not run, even if jitter would delay it
    past now. A one-shot may be up to 120 s in the past, as in Hermes. Raises JobError if no instant
    is left.
    """
    if schedule.kind is ScheduleKind.ONCE:
        run_at = first_meant(schedule, after_ms=to_ms(now) - ONE_SHOT_GRACE_MS - 1)
        if run_at is None:
            raise JobError(_why_not_once(schedule, now=now))
        return run_at
    upcoming = first_meant(schedule, after_ms=to_ms(now))
    if upcoming is None:
        raise JobError(_why_no_more(schedule, now=now))
    return upcoming


def first_meant(schedule: Schedule, *, after_ms: int) -> datetime | None:
    """Return the first occurrence whose nominal instant is after `after_ms`, with its jitter."""
    nominal_ms = schedule.nominal.next_after_ms(after_ms)
    # Jitter ends before the next occurrence, so the next instant from here is this occurrence.
    return None if nominal_ms is None else optional_from_ms(schedule.next_after_ms(nominal_ms - 1))


def _why_not_once(schedule: Schedule, *, now: datetime) -> str:
    at_ms = schedule.unbounded.next_after_ms(-1)
    if at_ms is not None and at_ms >= to_ms(now) - ONE_SHOT_GRACE_MS:
        return (
            f"one-shot time {schedule.text} is outside its start and end, or is excluded; "
            "change them, or the time"
        )
    return (
        f"Requested one-shot time {schedule.text} is more than "
        f"{ONE_SHOT_GRACE_MS // 1000}s in the past and cannot be scheduled."
    )


def _why_no_more(schedule: Schedule, *, now: datetime) -> str:
    text = f"{schedule.text!r} has no instant after {iso(now)}"
    if schedule.unbounded.next_after_ms(to_ms(now)) is None:
        return f"{text}; give another schedule"
    return f"{text} within its start, end and exclusions; change them"


def repeat_times(repeat: int | None, schedule: Schedule) -> int | None:
    """Return the number of runs of a job, None for ever.

    Zero and less mean for ever; a one-shot runs once.
    """
    if repeat is not None and repeat > 0:
        if repeat > MAX_REPEAT:
            raise JobError(
                f"repeat is {repeat}, more than {MAX_REPEAT:,}; leave it out to run for ever"
            )
        return repeat
    return 1 if schedule.kind is ScheduleKind.ONCE else None
