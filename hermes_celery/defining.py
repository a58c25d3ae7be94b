"""From what somebody typed to a job's definition, or to the reason why not.

A JobRequest is checked here once, at the border; what comes out makes sense everywhere else.
Nothing here reads a clock, a file or Redis: the rules that need the file system (does the script
exist?) are the callers'. The rules are Hermes' own (hermes-agent 0.19, cron/jobs.py as recorded).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

import msgspec

from hermes_celery.errors import JobError, ScriptError
from hermes_celery.field_types import check_fields
from hermes_celery.instant import from_ms, iso, optional_from_ms, to_ms
from hermes_celery.job import JobRequest, JobSpec, SessionSource
from hermes_celery.policy import checked_policy
from hermes_celery.prompt_scan import check_prompt
from hermes_celery.schedule import Kind, Schedule, parse
from hermes_celery.schedule_text import text_of, zone_name
from hermes_celery.task_call import checked_task
from hermes_celery.work import (
    TaskCall,
    check_one_kind,
    checked_http,
    checked_interpreter,
    checked_limits,
    checked_queue,
    checked_word,
)

#: How far in the past a one-shot may lie and still be taken (Hermes' ONESHOT_GRACE_SECONDS).
ONE_SHOT_GRACE_MS = 120_000
MAX_NAME = 200
MAX_PROMPT = 100_000
_DEFAULT_NAME_LENGTH = 50
_GATEWAY_COMMAND = re.compile(r"\bhermes\s+gateway\s+(restart|stop|kill)\b", re.IGNORECASE)


def define(
    request: JobRequest, *, job_id: str, now: datetime, default_timezone: str
) -> tuple[JobSpec, datetime]:
    """Check a request and return the job's spec with its first instant.

    Raises JobError or ScheduleError that says what was given, what is wrong and what to do.
    """
    content = checked_content(request)
    schedule = parse(
        text_of(request.schedule),
        timezone=zone_name(
            default_timezone if request.timezone in (None, "") else request.timezone
        ),
        now=now,
        spread=job_id,
        start=request.start,
        end=request.end,
        exclude=request.exclude,
        jitter_seconds=request.jitter_seconds,
    )
    first = first_instant(schedule, now=now)
    spec = JobSpec(
        id=job_id,
        schedule=schedule.text,
        schedule_display=schedule.display,
        timezone=schedule.timezone,
        anchor_ms=to_ms(now),
        created_ms=to_ms(now),
        repeat_times=repeat_times(request.repeat, schedule),
        start_ms=None if request.start is None else to_ms(request.start),
        end_ms=None if request.end is None else to_ms(request.end),
        exclude=tuple(request.exclude),
        jitter_seconds=request.jitter_seconds,
        **content,
    )
    return spec, first


def redefine(
    old: JobSpec, changes: Mapping[str, Any], *, now: datetime, default_timezone: str
) -> tuple[JobSpec, datetime | None]:
    """Check changes (fields as in JobRequest) and return the new spec.

    With it comes the first instant of a new schedule, or None where the schedule goes on as it was:
    only a change of the schedule, its zone or its bounds starts it anew.

    Raises JobError or ScheduleError.
    """
    names = JobRequest.__struct_fields__
    unknown = sorted(set(changes) - set(names))
    if unknown:
        raise JobError(f"a job has no field {', '.join(unknown)}; fields are {', '.join(names)}")
    given = {name: getattr(old, name) for name in names if hasattr(old, name)}
    given |= {
        "repeat": old.repeat_times,
        "start": optional_from_ms(old.start_ms),
        "end": optional_from_ms(old.end_ms),
    }
    request = JobRequest(**{**given, **changes})
    if not _TIMING.isdisjoint(changes):
        spec, first = define(request, job_id=old.id, now=now, default_timezone=default_timezone)
        kept = {"created_ms": old.created_ms, "managed_by": old.managed_by,
                "declared_in": old.declared_in}  # fmt: skip
        return msgspec.structs.replace(spec, **kept), first
    content = checked_content(request)
    times = repeat_times(request.repeat, old.compiled())
    return msgspec.structs.replace(old, repeat_times=times, **content), None


_TIMING = frozenset(("schedule", "timezone", "start", "end", "exclude", "jitter_seconds"))


def checked_content(request: JobRequest) -> dict[str, Any]:
    """The checked fields of a spec that do not depend on its schedule."""
    check_fields(request)
    call = checked_task(request.task)
    skills = _clean(request.skills)
    script = _stripped(request.script)
    prompt = _checked_prompt(request.prompt or "")
    fields = msgspec.structs.asdict(request)
    check_one_kind({**fields, "prompt": prompt.strip(), "script": script, "skills": skills})
    check_script_path(script)
    return {
        "name": _checked_name(request, call, prompt=prompt, script=script, skills=skills),
        "prompt": prompt,
        "script": script,
        "no_agent": request.no_agent,
        "skills": skills,
        "context_from": _references(request.context_from),
        "model": _stripped(request.model),
        "provider": _stripped(request.provider),
        "base_url": (_stripped(request.base_url) or "").rstrip("/") or None,
        "workdir": checked_workdir(request.workdir),
        "deliver": _stripped(request.deliver) or ("origin" if request.origin else "local"),
        "failure_deliver": _stripped(request.failure_deliver),
        "template": request.template or None,
        "ping": _stripped(request.ping),
        "origin": request.origin,
        "enabled_toolsets": _optional_clean(request.enabled_toolsets),
        "attach_to_session": request.attach_to_session,
        "policy": checked_policy(request.policy),
        "http": checked_http(request.http),
        "task": call,
        "interpreter": checked_interpreter(request.interpreter, script=script),
        "reasoning": _stripped(request.reasoning),
        "session": _checked_session(request.session),
        "queue": checked_queue(request.queue),
        "group": checked_word(request.group, field="group"),
        **checked_limits(fields),
    }


def first_instant(schedule: Schedule, *, now: datetime) -> datetime:
    """When a schedule that is written now runs first.

    A one-shot may lie up to 120 s in the past, as in Hermes. Raises JobError when nothing is left.
    """
    if schedule.kind is Kind.ONCE:
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
    return 1 if schedule.kind is Kind.ONCE else None


def parse_repeat(text: str) -> int | None:
    """`forever`, `once` or a whole number, as people type it. Raises JobError."""
    word = text.strip().lower()
    if word in ("forever", "always", "inf", "infinite"):
        return None
    if word == "once":
        return 1
    try:
        return int(word)
    except ValueError:
        raise JobError(
            f"Invalid repeat {text!r}: give a whole number, 'once' or 'forever'"
        ) from None


def check_script_path(script: str | None) -> None:
    """Refuse a script path that cannot lie inside the scripts directory, by its text alone.

    Whether it does lie there, links resolved, is checked where the file is. Raises ScriptError.
    """
    if not script:
        return
    if script.startswith(("/", "~", "\\")) or re.match(r"[A-Za-z]:", script):
        raise ScriptError(
            "Script path must be relative to ~/.hermes/scripts/. Got absolute or home-relative "
            f"path: {script!r}. Place scripts in ~/.hermes/scripts/ and use just the filename."
        )
    depth = 0
    for part in PurePosixPath(script.replace("\\", "/")).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            raise ScriptError(
                f"Script path escapes the scripts directory via traversal: {script!r}"
            )
    if "\0" in script or "\n" in script:
        raise ScriptError(f"Script path {script!r} holds a control character; rename the file")


def checked_workdir(workdir: str | None) -> str | None:
    """A working directory's text, stripped. Raises JobError unless it is absolute."""
    text = (workdir or "").strip()
    if text and not PurePosixPath(text).is_absolute():
        raise JobError(
            f"Cron workdir must be an absolute path (got {text!r}). Cron jobs run detached from "
            "any shell cwd, so relative paths are ambiguous."
        )
    return text or None


def _checked_session(text: str | None) -> SessionSource | None:
    word = _stripped(text)
    if word is None:
        return None
    try:
        return SessionSource(word)
    except ValueError:
        raise JobError(f"session {text!r} must be 'origin' or 'none'") from None


def _checked_prompt(prompt: str) -> str:
    if len(prompt) > MAX_PROMPT:
        raise JobError(
            f"the prompt has {len(prompt):,} characters, more than {MAX_PROMPT:,}; "
            "put the bulk into a script or a skill"
        )
    check_prompt(prompt)
    if _GATEWAY_COMMAND.search(prompt):
        raise JobError(
            "Blocked: cron job contains a gateway lifecycle command (restart/stop/kill). This is "
            "blocked to prevent agent-driven SIGTERM-respawn loops under launchd/systemd "
            "supervision (#30719). Run `hermes gateway restart` from a shell outside the running "
            "gateway instead."
        )
    return prompt


def _checked_name(
    request: JobRequest,
    task: TaskCall | None,
    *,
    prompt: str,
    script: str | None,
    skills: tuple[str, ...],
) -> str:
    given = (request.name or "").strip()
    if not given:
        call = task.name if task else request.http.url if request.http else ""
        source = prompt.strip() or (skills[0] if skills else "") or script or call or "cron job"
        shown = "".join(filter(str.isprintable, " ".join(source.split())))
        given = shown[:_DEFAULT_NAME_LENGTH].strip() or "cron job"
    check_name(given)
    return given


def check_name(name: str) -> None:
    """Raise JobError for a name that is too long or holds control characters."""
    if len(name) > MAX_NAME:
        raise JobError(
            f"the name has {len(name):,} characters, more than {MAX_NAME}; it begins "
            f"{name[:30]!r}. Give a shorter one"
        )
    if not name.isprintable():
        raise JobError(f"the name {name!r} holds characters that cannot be shown; use plain text")


def _references(value: Sequence[str] | str | None) -> tuple[str, ...]:
    return _clean([value] if isinstance(value, str) else value or ())


def _clean(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value.strip() for value in values if value.strip()))


def _optional_clean(values: Sequence[str] | None) -> tuple[str, ...] | None:
    return _clean(values) or None if values is not None else None


def _stripped(text: str | None) -> str | None:
    return (text or "").strip() or None
