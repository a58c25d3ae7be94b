"""Occurrences and runs: what should happen once, and the record that it did.

A run's id is derived from its occurrence, so that the same occurrence makes the same run wherever
and however often it is computed. The first Celery message that carries it has that id too; those
that are pushed later have their number behind it (`message_id_of`).
"""

from __future__ import annotations

import re
import time
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

import msgspec

from hermes_celery.instant import from_ms, iso, to_ms

#: How long a run that was handed on waits for its message, where that is no retry.
PATIENCE_SECONDS = 86_400.0
#: No project has a retry, or a visibility timeout, that is further away.
MOST_PATIENCE_MS = 366 * 86_400_000
#: How often the message of a run is sent on at most.
MOST_HOPS = 1_000_000


class RunState(StrEnum):
    """Where a run is in its life; everything after `running` is final."""

    #: Its message is on the queue, or due to be pushed (again).
    QUEUED = "queued"
    #: A worker holds the claim and gives a heartbeat.
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: Ended by its time limit.
    TIMED_OUT = "timed_out"
    #: Ended by a person, or by a worker that had to stop.
    CANCELLED = "cancelled"
    #: Its heartbeat stopped.
    LOST = "lost"
    #: Never queued; the reason says why.
    SKIPPED = "skipped"
    #: Published, not followed: its queue's workers do not report (no `Cron(app)` there).
    SENT = "sent"

    @property
    def is_final(self) -> bool:
        """Whether nothing can change this state any more."""
        return self not in (RunState.QUEUED, RunState.RUNNING)

    @property
    def stored(self) -> str:
        """The word of the field `state`; the exact one stands in `sort` where they differ.

        Version 0.1.0 cannot list a run in a state that it does not know, and must not take the
        occurrence for one that has not run.
        """
        return RunState.SUCCEEDED.value if self is RunState.SENT else self.value


class Trigger(StrEnum):
    """What made the run."""

    #: The job's schedule.
    SCHEDULE = "schedule"
    #: A person or program asked for it now.
    MANUAL = "manual"
    #: Somebody asked for the runs of a range of time.
    BACKFILL = "backfill"


class DeliveryState(StrEnum):
    """Where the run's output is on its way to a person."""

    #: Nothing to deliver (yet), or to nobody.
    NONE = "none"
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    #: The run had nothing to say, on purpose.
    SILENT = "silent"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The record of executing one occurrence. Instants are aware UTC."""

    id: str
    job_id: str
    job_name: str
    due_at: datetime
    queued_at: datetime
    state: RunState
    trigger: Trigger = Trigger.SCHEDULE
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempt: int = 1
    worker: str | None = None
    error: str | None = None
    reason: str | None = None
    exit_code: int | None = None
    delivery: DeliveryState = DeliveryState.NONE
    #: What could not be delivered as its job wants, although the rest was.
    delivery_warning: str | None = None
    #: Bytes of output stored; None before the run ended.
    output_bytes: int | None = None
    #: After that no worker starts it any more.
    expires_at: datetime | None = None
    #: What an agent used, over all attempts.
    tokens: int | None = None
    cost_usd: float | None = None
    #: The Celery id of the message that it goes on with, since its task has handed it on.
    handed_on: str | None = None
    #: When that message is to be performed, where it is a retry of the task's own.
    retry_at: datetime | None = None
    #: What of its record cannot be read, in one line; stand-ins are in its place.
    fault: str | None = None

    @property
    def why(self) -> str:
        """Why it ended as it did, or what it waits for; "" where that is plain."""
        if self.retry_at and not self.state.is_final:
            return (
                f"waits for the retry of {iso(self.retry_at)}; where that is past, a worker took "
                "it with it, or none takes it"
            )
        if self.handed_on and not self.state.is_final:
            return f"its task has handed it on; the Celery message {self.handed_on} goes on with it"
        return self.error or self.reason or ""

    def as_json(self) -> dict[str, Any]:
        """The stable names of `--json`; instants in ISO 8601, UTC."""
        record = msgspec.structs.asdict(self)
        for name in ("due_at", "queued_at", "started_at", "finished_at", "expires_at", "retry_at"):
            record[name] = iso(record[name])
        return record


_RUN_ID = re.compile(r"[0-9a-f]{12}-\d{8}T\d{6}(\.\d{3})?Z(-[0-9a-f]{4,16})?")


def run_id_of(job_id: str, due_ms: int, *, manual: str = "") -> str:
    """The id of the run of one occurrence: job id, instant in UTC, and a tag if triggered by hand.

    `due_ms` is Unix milliseconds; `manual` keeps a manual run apart from a scheduled one, or from
    another manual one, of the same instant.
    """
    return f"{job_id}-{_instant(due_ms)}" + (f"-{manual}" if manual else "")


@lru_cache(maxsize=256)  # many jobs are due at the same instant
def _instant(ms: int) -> str:
    seconds, fraction = divmod(ms, 1000)
    text = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))
    return f"{text}.{fraction:03d}Z" if fraction else f"{text}Z"


def message_id_of(run_id: str, *, push: int = 0) -> str:
    """The Celery id of a run's message: the run's own, and with its number from the first re-push.

    Celery's workers remember revoked and expired ids for hours, and drop what has such an id.
    """
    return f"{run_id}.{push}" if push else run_id


def is_scheduled(run_id: str) -> bool:
    """Whether a run's id says that its job's schedule made it, and nobody by hand."""
    return run_id.count("-") == 1


def is_run_id(text: str) -> bool:
    """Whether this can be a run's id at all."""
    return _RUN_ID.fullmatch(text) is not None


def job_id_of(run_id: str) -> str:
    """The job that a run belongs to."""
    return run_id[:12]


def due_ms_of(run_id: str) -> int:
    """The nominal instant of a run, Unix milliseconds."""
    seconds, _, fraction = run_id.split("-")[1].rstrip("Z").partition(".")
    instant = datetime.strptime(f"{seconds}+0000", "%Y%m%dT%H%M%S%z")
    return to_ms(instant) + int(fraction or 0)


class Occurrence(msgspec.Struct, frozen=True, kw_only=True):
    """One nominal instant of a job, `due_ms` in Unix milliseconds."""

    job_id: str
    due_ms: int
    manual: str = ""

    @property
    def run_id(self) -> str:
        """The id of its run."""
        return run_id_of(self.job_id, self.due_ms, manual=self.manual)

    @property
    def due_at(self) -> datetime:
        """The nominal instant, aware UTC."""
        return from_ms(self.due_ms)


def occurrence_at(job_id: str, instant: datetime) -> Occurrence:
    """The scheduled occurrence of a job at an aware instant."""
    return Occurrence(job_id=job_id, due_ms=to_ms(instant))


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent's run used."""

    tokens: int = 0
    cost_usd: float = 0.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended, as the runner tells the store."""

    state: RunState
    output: bytes = b""
    stderr: bytes = b""
    error: str | None = None
    reason: str | None = None
    exit_code: int | None = None
    #: It succeeded and has nothing to say to anybody.
    silent: bool = False
    usage: Usage | None = None
