"""Jobs: what somebody asked for, as values.

A `JobRequest` is what somebody typed; `job_checks` turns it into a `JobSpec` or says why not; a
`Job` is a spec together with where it stands. Field names are Hermes' own (hermes-agent 0.19).
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
    """Whether a job has a next run."""

    SCHEDULED = "scheduled"
    PAUSED = "paused"
    #: It has had its last run; kept for a while, then removed.
    COMPLETED = "completed"
    #: Its schedule could not be planned; the last error says why.
    ERROR = "error"


#: What Hermes stores as a job's state and last status -> the word that runs have for it.
_WORDS = {"error": "failed", "ok": "succeeded"}


def word_of(stored: str) -> str:
    """A job's stored state or last status, in the word that people read everywhere."""
    return _WORDS.get(stored, stored)


def stored_word_of(word: str) -> str:
    """What is stored for a word that people read, or for that which is stored."""
    return {shown: stored for stored, shown in _WORDS.items()}.get(word, word)


class JobFields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that are the same when they are asked for and when they are stored.

    What each of them means, and how it is typed, checked and shown, stands in `core.fields`.
    """

    script: str | None = None
    no_agent: bool = False
    model: str | None = None
    provider: str | None = None
    base_url: str | None = None
    workdir: str | None = None
    #: Where failures are told; None: where the output goes.
    failure_deliver: str | None = None
    #: Jinja2, for the message; None: Hermes' header and footer.
    template: str | None = None
    #: A dead-man switch that hears of each run's start and end.
    ping: str | None = None
    origin: Origin | None = None
    #: Hermes' own: it is kept, and nothing here acts on it.
    attach_to_session: bool = False
    #: The work, where it is an HTTP request.
    http: HttpCall | None = None
    #: What runs the script instead of bash or Python.
    interpreter: str | None = None
    reasoning: str | None = None
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
    policy: Policy = Policy()
    #: Each occurrence is delayed by up to so much, the same way each time.
    jitter_seconds: int = 0


class JobRequest(JobFields, frozen=True, kw_only=True):
    """What somebody asked for, unchecked."""

    #: A text as on the command line, or a crontab, timedelta or number of seconds as in Celery.
    schedule: Any
    prompt: str | None = None
    name: str | None = None
    #: A name, or a `tzinfo` that has one; None: as the settings say.
    timezone: Any = None
    repeat: int | None = None
    deliver: str | None = None
    context_from: Sequence[str] | str | None = None
    skills: Sequence[str] = ()
    enabled_toolsets: Sequence[str] | None = None
    #: A TaskCall, or the signature of a task.
    task: Any = None
    session: str | None = None
    #: Bounds of the schedule: aware instants, dates or cron expressions to leave out.
    start: datetime | None = None
    end: datetime | None = None
    exclude: Sequence[str] = ()


class JobSpec(JobFields, frozen=True, kw_only=True, omit_defaults=True):
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
    skills: tuple[str, ...] = ()
    context_from: tuple[str, ...] = ()
    deliver: str = "local"
    enabled_toolsets: tuple[str, ...] | None = None
    repeat_times: int | None = None
    #: The work, where it is a Celery task.
    task: TaskCall | None = None
    #: None: as HERMES_CELERY_SESSION says.
    session: SessionSource | None = None
    #: Who keeps this job in step with a configuration; None: people.
    managed_by: str | None = None
    #: Where it is declared, for people; None: nowhere, or version 0.1.0 wrote it.
    declared_in: str | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    exclude: tuple[str, ...] = ()
    #: The oldest stored format whose programs can read this job.
    needs: int = 1

    @property
    def kind(self) -> WorkKind:
        """What performs the job's runs."""
        return work_kind(http=self.http, task=self.task, no_agent=self.no_agent)

    def compiled(self) -> Schedule:
        """The schedule, ready to be asked for instants."""
        is_limited = self.start_ms is not None or self.end_ms is not None
        # Most jobs narrow nothing, and a tick asks each of them.
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
    #: The definition as it is stored, where this version would write it otherwise: what a newer one
    #: wrote into it and this one does not know goes with every change.
    stored_spec: str = ""
    #: Fields of its record that cannot be read, each with what is wrong.
    faults: dict[str, str] = {}

    @property
    def fault(self) -> str | None:
        """What of its record cannot be read, in one line; None when all can."""
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
        """The job under Hermes' stored field names; instants in ISO 8601, UTC; no secrets."""
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
        """The schedule in Hermes' form; one that cannot be read (any more) is shown as its text."""
        try:
            return self.spec.compiled().to_hermes()
        except (ValueError, OverflowError) as error:
            return {"kind": UNREADABLE, "expr": self.spec.schedule, "error": str(error)}


class UnreadableJob(msgspec.Struct, frozen=True, kw_only=True):
    """A stored job that this version cannot read, with as much of it as can be shown.

    It is never planned. What is there stays as it is until somebody mends or removes it.
    """

    id: str
    #: Its key in Redis, and one phrase: "is a string, not a hash".
    key: str
    what: str
    name: str = ""
    schedule_display: str = ""
    #: The stored word of its state.
    state: str = UNREADABLE
    #: A newer version wrote it, and can read it.
    is_newer: bool = False

    @property
    def fault(self) -> str:
        """What is wrong and what to do, in one line."""
        if self.is_newer:
            return f"from a newer version of hermes-celery, not planned by this one: {self.what}"
        return f"unreadable: {self.key} {self.what}; `hermes-celery remove {self.id}` removes it"

    def as_json(self) -> dict[str, Any]:
        """The same names as a readable job's, as far as they are known."""
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
    """The fields of the table for programs: plain values, without what is secret of them."""
    shown = {field.key: _json_value(field, spec) for field in FIELDS if not field.inside}
    shown |= {holder: getattr(spec, holder) for holder in HOLDERS}
    content: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(shown))
    if content["task"] is not None:
        # The same once more, for programs.
        content["task"].pop("exact", None)
    return content


def _json_value(field: Field, spec: JobSpec) -> Any:
    value = field.given(field.of(spec))
    if isinstance(value, datetime):
        return iso(value)
    return field.hide(value) if field.hide and value else value


def new_job_id() -> str:
    """A fresh id of 12 hex digits."""
    return secrets.token_hex(6)


def is_job_id(text: str) -> bool:
    """Whether this has the form of a job's id."""
    return _JOB_ID.fullmatch(text) is not None


def name_key(name: str) -> str:
    """What two names share when they differ in case only."""
    return name.strip().casefold()
