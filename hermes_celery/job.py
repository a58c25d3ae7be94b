"""Jobs: what the user asked for, validated once, at the border.

A `JobRequest` is what somebody typed; `define` turns it into a `JobSpec` or says why not; a `Job`
is a spec together with where it stands. Nothing here reads a clock, a file or Redis: the rules that
need the file system (does the script exist?) are the callers'.

Field names and rules are Hermes' own (hermes-agent 0.19, cron/jobs.py as recorded).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

import msgspec

from hermes_celery.errors import JobError, ScheduleError, ScriptError
from hermes_celery.instant import from_ms, iso, optional_from_ms, to_ms
from hermes_celery.masking import masked, masked_path
from hermes_celery.policy import Policy, checked_policy
from hermes_celery.prompt_scan import check_prompt
from hermes_celery.schedule import Kind, Schedule, parse
from hermes_celery.work import (
    HttpCall,
    TaskCall,
    WorkKind,
    check_one_kind,
    checked_http,
    checked_interpreter,
    checked_limits,
    checked_task,
    checked_word,
    work_kind,
)

#: How far in the past a one-shot may lie and still be taken (Hermes' ONESHOT_GRACE_SECONDS).
ONE_SHOT_GRACE_MS = 120_000
MAX_NAME = 200
MAX_PROMPT = 100_000
_DEFAULT_NAME_LENGTH = 50
_JOB_ID = re.compile(r"[0-9a-f]{12}")
_GATEWAY_COMMAND = re.compile(r"\bhermes\s+gateway\s+(restart|stop|kill)\b", re.IGNORECASE)


class JobState(StrEnum):
    """Whether a job has a next run."""

    SCHEDULED = "scheduled"
    PAUSED = "paused"
    #: It has had its last run; kept for a while, then removed.
    COMPLETED = "completed"
    #: Its schedule could not be planned; the last error says why.
    ERROR = "error"


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who and where the job was made for: the seed of its runs' session."""

    platform: str = ""
    chat_id: str = ""
    chat_name: str = ""
    thread_id: str = ""
    user_id: str = ""
    user_name: str = ""
    source: str = ""
    session_key: str = ""
    session_id: str = ""
    ui_session_id: str = ""
    message_id: str = ""
    profile: str = ""


class SessionSource(StrEnum):
    """What the session of a job's runs is made of."""

    #: The job's origin: who and where it was made for.
    ORIGIN = "origin"
    #: Nothing: every session variable is "", so that a run never passes for a live chat.
    NONE = "none"


class JobRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody asked for, unchecked."""

    schedule: str
    prompt: str | None = None
    name: str | None = None
    script: str | None = None
    no_agent: bool = False
    timezone: str | None = None
    repeat: int | None = None
    deliver: str | None = None
    failure_deliver: str | None = None
    template: str | None = None
    ping: str | None = None
    origin: Origin | None = None
    context_from: Sequence[str] | str | None = None
    skills: Sequence[str] = ()
    model: str | None = None
    provider: str | None = None
    base_url: str | None = None
    workdir: str | None = None
    enabled_toolsets: Sequence[str] | None = None
    attach_to_session: bool = False
    http: HttpCall | None = None
    task: TaskCall | None = None
    interpreter: str | None = None
    reasoning: str | None = None
    session: str | None = None
    queue: str | None = None
    priority: int | None = None
    timeout_seconds: float | None = None
    idle_timeout_seconds: float | None = None
    group_limit: int | None = None
    group: str | None = None
    token_budget: int | None = None
    cost_budget: float | None = None
    policy: Policy = Policy()
    #: Bounds of the schedule: aware instants, dates or cron expressions to leave out, spread.
    start: datetime | None = None
    end: datetime | None = None
    exclude: Sequence[str] = ()
    jitter_seconds: int = 0


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The checked definition of a job; changing it raises the job's revision."""

    id: str
    name: str
    #: The schedule's normal form; with `timezone` and `anchor_ms` it parses to the same schedule.
    schedule: str
    schedule_display: str
    #: Where an interval's grid begins, Unix ms.
    anchor_ms: int
    created_ms: int
    timezone: str = "UTC"
    prompt: str = ""
    script: str | None = None
    no_agent: bool = False
    skills: tuple[str, ...] = ()
    context_from: tuple[str, ...] = ()
    model: str | None = None
    provider: str | None = None
    base_url: str | None = None
    workdir: str | None = None
    deliver: str = "local"
    #: Where failures are told; None: where the output goes.
    failure_deliver: str | None = None
    #: Jinja2, for the message; None: Hermes' header and footer.
    template: str | None = None
    #: A dead-man switch that hears of each run's start and end.
    ping: str | None = None
    origin: Origin | None = None
    enabled_toolsets: tuple[str, ...] | None = None
    repeat_times: int | None = None
    attach_to_session: bool = False
    #: The work, where it is an HTTP request or a Celery task.
    http: HttpCall | None = None
    task: TaskCall | None = None
    #: What runs the script instead of bash or Python.
    interpreter: str | None = None
    reasoning: str | None = None
    #: None: as HERMES_CELERY_SESSION says.
    session: SessionSource | None = None
    #: The Celery queue of its runs; None: the namespace's own.
    queue: str | None = None
    #: As Celery has it on Redis: 0 is taken first, 9 last; None: as the app's configuration says.
    priority: int | None = None
    timeout_seconds: float | None = None
    idle_timeout_seconds: float | None = None
    #: A named concurrency group, and how many runs of all its jobs may run at once.
    group: str | None = None
    group_limit: int | None = None
    #: Per day (UTC): what its runs may use before the job pauses.
    token_budget: int | None = None
    cost_budget: float | None = None
    #: Who keeps this job in step with a configuration; None: people.
    managed_by: str | None = None
    policy: Policy = Policy()
    start_ms: int | None = None
    end_ms: int | None = None
    exclude: tuple[str, ...] = ()
    jitter_seconds: int = 0

    @property
    def kind(self) -> WorkKind:
        """What performs the job's runs."""
        return work_kind(http=self.http, task=self.task, no_agent=self.no_agent)

    def compiled(self) -> Schedule:
        """The schedule, ready to be asked for instants."""
        return parse(
            self.schedule,
            timezone=self.timezone,
            now=from_ms(self.anchor_ms),
            spread=self.id,
            start=optional_from_ms(self.start_ms),
            end=optional_from_ms(self.end_ms),
            exclude=self.exclude,
            jitter_seconds=self.jitter_seconds,
        )


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job and where it stands. Instants are aware UTC."""

    spec: JobSpec
    #: Rises with every change by a person; what compare-and-set compares.
    revision: int = 1
    state: JobState = JobState.SCHEDULED
    next_run_at: datetime | None = None
    #: Scheduled runs dispatched so far.
    completed: int = 0
    paused_at: datetime | None = None
    paused_reason: str | None = None
    last_run_at: datetime | None = None
    last_status: str | None = None
    last_error: str | None = None
    last_delivery_error: str | None = None

    @property
    def id(self) -> str:
        """The job's id, 12 hex digits."""
        return self.spec.id

    @property
    def name(self) -> str:
        """The job's name; not unique."""
        return self.spec.name

    def as_json(self) -> dict[str, Any]:
        """The job under Hermes' stored field names; instants in ISO 8601, UTC."""
        spec = self.spec
        shown = {name: getattr(spec, name) for name in _SHOWN}
        content: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(shown))
        return {
            **content,
            "deliver": masked(spec.deliver),
            "failure_deliver": masked(spec.failure_deliver) if spec.failure_deliver else None,
            "ping": masked_path(spec.ping) if spec.ping else None,
            "skill": spec.skills[0] if spec.skills else None,
            "context_from": list(spec.context_from) or None,
            "schedule": self._stored_schedule(),
            "repeat": {"times": spec.repeat_times, "completed": self.completed},
            "enabled": self.state is JobState.SCHEDULED,
            "state": self.state.value,
            "revision": self.revision,
            "created_at": iso(from_ms(spec.created_ms)),
            "start_at": iso(optional_from_ms(spec.start_ms)),
            "end_at": iso(optional_from_ms(spec.end_ms)),
            "next_run_at": iso(self.next_run_at),
            "paused_at": iso(self.paused_at),
            "paused_reason": self.paused_reason,
            "last_run_at": iso(self.last_run_at),
            "last_status": self.last_status,
            "last_error": self.last_error,
            "last_delivery_error": self.last_delivery_error,
        }


    def _stored_schedule(self) -> dict[str, object]:
        """The schedule in Hermes' form; one that cannot be read (any more) is shown as its text."""
        try:
            return self.spec.compiled().to_hermes()
        except ScheduleError as error:
            return {"kind": "unreadable", "expr": self.spec.schedule, "error": str(error)}


_SHOWN = tuple(
    name
    for name in JobSpec.__struct_fields__
    if name not in ("anchor_ms", "created_ms", "repeat_times", "schedule", "start_ms", "end_ms")
)


def new_job_id() -> str:
    """A fresh id of 12 hex digits."""
    return secrets.token_hex(6)


def is_job_id(text: str) -> bool:
    """Whether this has the form of a job's id."""
    return _JOB_ID.fullmatch(text) is not None


def name_key(name: str) -> str:
    """What two names share when they differ in case only."""
    return name.strip().casefold()


def define(
    request: JobRequest, *, job_id: str, now: datetime, default_timezone: str
) -> tuple[JobSpec, datetime]:
    """Check a request and return the job's spec with its first instant.

    Raises JobError or ScheduleError that says what was given, what is wrong and what to do.
    """
    content = checked_content(request)
    schedule = parse(
        request.schedule,
        timezone=request.timezone or default_timezone,
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
        kept = {"created_ms": old.created_ms, "managed_by": old.managed_by}
        return msgspec.structs.replace(spec, **kept), first
    times = repeat_times(request.repeat, old.compiled())
    return msgspec.structs.replace(old, repeat_times=times, **checked_content(request)), None


_TIMING = frozenset(("schedule", "timezone", "start", "end", "exclude", "jitter_seconds"))


def checked_content(request: JobRequest) -> dict[str, Any]:
    """The checked fields of a spec that do not depend on its schedule."""
    skills = _clean(request.skills)
    script = _stripped(request.script)
    prompt = _checked_prompt(request.prompt or "")
    fields = msgspec.structs.asdict(request)
    check_one_kind({**fields, "prompt": prompt.strip(), "script": script, "skills": skills})
    check_script_path(script)
    return {
        "name": _checked_name(request, prompt=prompt, script=script, skills=skills),
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
        "task": checked_task(request.task),
        "interpreter": checked_interpreter(request.interpreter, script=script),
        "reasoning": _stripped(request.reasoning),
        "session": _checked_session(request.session),
        "queue": checked_word(request.queue, field="queue"),
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
    request: JobRequest, *, prompt: str, script: str | None, skills: tuple[str, ...]
) -> str:
    given = (request.name or "").strip()
    if not given:
        call = request.task.name if request.task else request.http.url if request.http else ""
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
