"""Jobs: the values of a request, of its stored definition, and of a job's state.

A `JobRequest` is what a user asked for. `job_checks` turns it into a `JobSpec` or refuses it with
the reason. A `Job` is a spec together with its present state. Field names are Hermes' own
(hermes-agent 0.19).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from hermes_celery.core.fields import FIELDS, HOLDERS, Field
from hermes_celery.core.origin import Origin as Origin
from hermes_celery.core.origin import SessionSource as SessionSource
from hermes_celery.core.policy import Policy
from hermes_celery.core.unknown_words import UNREADABLE
from hermes_celery.core.work import (
    HttpCall,
    TaskCall,
    WorkKind,
    work_kind,
)
from hermes_celery.instant import from_ms, iso
from hermes_celery.schedule import UNBOUNDED, Bounds, Schedule, bind

_JOB_ID = re.compile(r"[0-9a-f]{12}")


class JobState(StrEnum):
    """The state of a job: whether it has a next run."""

    #: The job has a next run.
    SCHEDULED = "scheduled"
    #: Somebody paused the job, or one of its limits did; it runs again after `resume`.
    PAUSED = "paused"
    #: The job has had its last run; it is kept for a while, then removed.
    COMPLETED = "completed"
    #: The schedule could not be planned; the last error says why.
    ERROR = "error"


#: Hermes' stored words for a job's state and last status, and our words for the same states.
_WORDS = {"error": "failed", "ok": "succeeded"}


def word_of(stored: str) -> str:
    """Return a job's stored state or last status in the word that people see."""
    return _WORDS.get(stored, stored)


def stored_word_of(word: str) -> str:
    """Return the stored word for a word that people see, or a stored word unchanged."""
    return {shown: stored for stored, shown in _WORDS.items()}.get(word, word)


class JobFields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that are the same in a request and in a stored definition.

    `core.fields` says what each of them means, and how it is typed, checked and shown.
    """

    script: str | None = None
    no_agent: bool = False
    model: str | None = None
    provider: str | None = None
    base_url: str | None = None
    workdir: str | None = None
    #: Where reports of failures go; None: where the output goes.
    failure_deliver: str | None = None
    #: Jinja2 template of the message; None: Hermes' header and footer.
    template: str | None = None
    #: URL of a dead-man switch, called at each run's start and end.
    ping: str | None = None
    origin: Origin | None = None
    #: Kept for Hermes; nothing here uses it.
    attach_to_session: bool = False
    #: The request of an HTTP job.
    http: HttpCall | None = None
    #: The program that runs the script instead of bash or Python.
    interpreter: str | None = None
    reasoning: str | None = None
    #: The Celery queue of the job's runs; None: the namespace's own.
    queue: str | None = None
    #: As in Celery on Redis: 0 is taken first, 9 last; None: as the app's configuration says.
    priority: int | None = None
    timeout_seconds: float | None = None
    idle_timeout_seconds: float | None = None
    #: A concurrency group, and the limit of simultaneous runs over all its jobs.
    group: str | None = None
    group_limit: int | None = None
    #: Tokens and US dollars that the runs may use per day (UTC) before the job pauses.
    token_budget: int | None = None
    cost_budget: float | None = None
    policy: Policy = Policy()
    #: Upper limit of an occurrence's delay, which is always the same for one occurrence.
    jitter_seconds: int = 0


class JobRequest(JobFields, frozen=True, kw_only=True):
    """A job that a user asks for, unchecked."""

    #: A text as on the command line, or Celery's crontab, a timedelta or a number of seconds.
    schedule: Any
    prompt: str | None = None
    name: str | None = None
    #: A name, or a `tzinfo` with a name; None: the time zone of the settings.
    timezone: Any = None
    repeat: int | None = None
    deliver: str | None = None
    context_from: Sequence[str] | str | None = None
    skills: Sequence[str] = ()
    enabled_toolsets: Sequence[str] | None = None
    #: A TaskCall, or the signature of a task.
    task: Any = None
    session: str | None = None
    #: Bounds of the schedule: aware instants, and dates or cron expressions to leave out.
    start: datetime | None = None
    end: datetime | None = None
    exclude: Sequence[str] = ()


class JobSpec(JobFields, frozen=True, kw_only=True, omit_defaults=True):
    """The checked definition of a job; a change raises the job's revision."""

    id: str
    name: str
    #: The schedule's normal form; with `timezone` and `anchor_ms` it parses to the same schedule.
    schedule: str
    schedule_display: str
    #: The start of an interval's grid, Unix ms.
    anchor_ms: int
    created_ms: int
    timezone: str = "UTC"
    prompt: str = ""
    skills: tuple[str, ...] = ()
    context_from: tuple[str, ...] = ()
    deliver: str = "local"
    enabled_toolsets: tuple[str, ...] | None = None
    repeat_times: int | None = None
    #: The call of a Celery task job.
    task: TaskCall | None = None
    #: None: as HERMES_CELERY_SESSION says.
    session: SessionSource | None = None
    #: The program that keeps this job in step with a configuration; None: people change it.
    managed_by: str | None = None
    #: The place of its declaration, for people; None if not declared, or written by version 0.1.0.
    declared_in: str | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    exclude: tuple[str, ...] = ()
    #: The oldest stored format whose programs can read this job.
    needs: int = 1

    @property
    def kind(self) -> WorkKind:
        """The kind of work that the job's runs do."""
        return work_kind(http=self.http, task=self.task, no_agent=self.no_agent)

    def compiled(self) -> Schedule:
        """Return the schedule as an object that computes instants."""
        is_limited = self.start_ms is not None or self.end_ms is not None
        # Most jobs have no bounds, and a tick compiles the schedule of every due job.
        narrows = is_limited or self.exclude or self.jitter_seconds
        return bind(
            self.schedule,
            timezone=self.timezone,
            anchor_ms=self.anchor_ms,
            spread=self.id,
            bounds=self._bounds() if narrows else UNBOUNDED,
        )

    def _bounds(self) -> Bounds:
        return Bounds(
            start_ms=self.start_ms,
            end_ms=self.end_ms,
            exclude=self.exclude,
            jitter_seconds=self.jitter_seconds,
        )


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job and its present state. Instants are aware UTC."""

    #: The checked definition, which has the fields of the request.
    spec: JobSpec
    #: Rises with every change by a person; compare-and-set compares it.
    revision: int = 1
    state: JobState = JobState.SCHEDULED
    #: The next occurrence; None if there is none. A paused job does not run at it.
    next_run_at: datetime | None = None
    #: Scheduled runs dispatched so far.
    completed: int = 0
    paused_at: datetime | None = None
    paused_reason: str | None = None
    last_run_at: datetime | None = None
    #: How the latest run ended, where `ok` means succeeded and `error` means failed.
    last_status: str | None = None
    last_error: str | None = None
    last_delivery_error: str | None = None
    #: The stored definition, if this version would write it differently. It keeps what a newer
    #: version wrote and this one does not know, so that no change loses it.
    stored_spec: str = ""
    #: Unreadable fields of the record, each with what is wrong.
    faults: dict[str, str] = {}

    @property
    def fault(self) -> str | None:
        """The unreadable parts of the record in one line; None if there are none."""
        return ", ".join(f"{name} {what}" for name, what in self.faults.items()) or None

    @property
    def id(self) -> str:
        """The job's id, 12 hex digits."""
        return self.spec.id

    @property
    def name(self) -> str:
        """The job's name; not unique."""
        return self.spec.name

    def as_json(self) -> dict[str, Any]:
        """Return the job under Hermes' stored field names, without secrets.

        Instants are in ISO 8601, UTC.
        """
        spec = self.spec
        return {
            "id": self.id,
            "name": self.name,
            "schedule_display": spec.schedule_display,
            **_shown(spec),
            "skill": spec.skills[0] if spec.skills else None,
            "schedule": self._stored_schedule(),
            "repeat": {"times": spec.repeat_times, "completed": self.completed},
            "managed_by": spec.managed_by,
            "declared_in": spec.declared_in,
            "enabled": self.state is JobState.SCHEDULED,
            "state": self.state.value,
            "revision": self.revision,
            "created_at": iso(from_ms(spec.created_ms)),
            "next_run_at": iso(self.next_run_at),
            "paused_at": iso(self.paused_at),
            "paused_reason": self.paused_reason,
            "last_run_at": iso(self.last_run_at),
            "last_status": self.last_status,
            "last_error": self.last_error,
            "last_delivery_error": self.last_delivery_error,
            "fault": self.fault,
        }

    def _stored_schedule(self) -> dict[str, object]:
        """Return the schedule in Hermes' form; an unreadable schedule is shown as its text."""
        try:
            return self.spec.compiled().to_hermes()
        except (ValueError, OverflowError) as error:
            return {"kind": UNREADABLE, "expr": self.spec.schedule, "error": str(error)}


class UnreadableJob(msgspec.Struct, frozen=True, kw_only=True):
    """A stored job that this version cannot read, with the parts that can be shown.

    It is never planned. Its record stays as it is until somebody repairs or removes it; the beat
    writes a declared job again.
    """

    id: str
    #: Its key in Redis, and what is wrong, such as "is a string, not a hash".
    key: str
    what: str
    name: str = ""
    schedule_display: str = ""
    #: The stored word for its state.
    state: str = UNREADABLE
    #: True if a newer version wrote the job, and can read it.
    is_newer: bool = False

    @property
    def fault(self) -> str:
        """The fault and what to do about it, in one line."""
        if self.is_newer:
            return f"from a newer version of hermes-celery, not planned by this one: {self.what}"
        return f"unreadable: {self.key} {self.what}; `hermes-celery remove {self.id}` removes it"

    def as_json(self) -> dict[str, Any]:
        """Return the values under the keys of a readable job's JSON, as far as they are known."""
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "schedule_display": self.schedule_display,
            "enabled": False,
            "next_run_at": None,
            "fault": self.fault,
        }


def _shown(spec: JobSpec) -> dict[str, Any]:
    """Return the fields of the table as plain JSON values, without secrets."""
    shown = {field.key: _json_value(field, spec) for field in FIELDS if not field.inside}
    shown |= {holder: getattr(spec, holder) for holder in HOLDERS}
    content: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(shown))
    if content["task"] is not None:
        # The same call in a form for programs.
        content["task"].pop("exact", None)
    return content


def _json_value(field: Field, spec: JobSpec) -> Any:
    value = field.given(field.of(spec))
    if isinstance(value, datetime):
        return iso(value)
    return field.hide(value) if field.hide and value else value


def new_job_id() -> str:
    """Return a random id of 12 hex digits."""
    return secrets.token_hex(6)


def is_job_id(text: str) -> bool:
    """Return whether a text has the form of a job id."""
    return _JOB_ID.fullmatch(text) is not None


def name_key(name: str) -> str:
    """Return the key under which names that differ in case only are the same."""
    return name.strip().casefold()
