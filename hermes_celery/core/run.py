"""Occurrences and runs: one nominal instant of a job, and the record of executing it.

A run's id is derived from its occurrence, so the same occurrence always gets the same run id. The
first Celery message of a run has this id too; messages that are pushed later add their number
(`message_id_of`).
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

#: How long a run that was handed on waits for its message, unless that message is a retry.
PATIENCE_SECONDS = 86_400.0
#: Longer than any project's retry delay or visibility timeout.
MOST_PATIENCE_MS = 366 * 86_400_000
#: How often a run may be handed on to another message.
MOST_HOPS = 1_000_000


class RunState(StrEnum):
    """The state of a run; every state after `running` is final."""

    #: Its message is on the queue, or is about to be pushed (again).
    QUEUED = "queued"
    #: A worker holds the claim and sends heartbeats.
    RUNNING = "running"
    #: Its work ended without an error.
    SUCCEEDED = "succeeded"
    #: Its work ended with an error, and no attempt is left.
    FAILED = "failed"
    #: Stopped by its time limit.
    TIMED_OUT = "timed_out"
    #: Stopped by a person, or by a worker that had to stop.
    CANCELLED = "cancelled"
    #: Its worker died or was cut off: no heartbeat for 15 s.
    LOST = "lost"
    #: Never started; the reason says why.
    SKIPPED = "skipped"
    #: Published and not followed: the workers of its queue do not report (no `Cron(app)` there).
    SENT = "sent"

    @property
    def is_final(self) -> bool:
        """True if the run is over, so that its state can no longer change."""
        return self not in (RunState.QUEUED, RunState.RUNNING)

    @property
    def stored(self) -> str:
        """The word in the stored field `state`; if it differs, the field `sort` has the exact word.

        Version 0.1.0 cannot list a run in a state that it does not know, and must not mistake the
        run's occurrence for one that has not run.
        """
        return RunState.SUCCEEDED.value if self is RunState.SENT else self.value


class EndReason(StrEnum):
    """The first word of a run's reason, if a rule of this program or of Celery ended the run."""

    #: No beat dispatched the occurrence in time, and the job's `catch_up` does not run it later.
    MISSED = "missed"
    #: The occurrence was due while all jobs were paused.
    PAUSED = "paused"
    #: An earlier run of the job was not over, and the job's `overlap` allows no further run.
    OVERLAP = "overlap"
    #: No worker started the run before its `expires`.
    EXPIRED = "expired"
    #: The occurrence after it took its place (`overlap` is `replace`).
    REPLACED = "replaced"
    #: Its Celery task was revoked.
    REVOKED = "revoked"
    #: `celery purge` deleted its message.
    PURGED = "purged"


class Trigger(StrEnum):
    """The cause of a run."""

    #: The job's schedule.
    SCHEDULE = "schedule"
    #: A person or program asked for a run now.
    MANUAL = "manual"
    #: A person or program asked for the runs of a time range.
    BACKFILL = "backfill"


class DeliveryState(StrEnum):
    """The progress of the delivery of a run's output."""

    #: There is nothing to deliver (yet), or nobody to deliver to.
    NONE = "none"
    #: The message is being sent, or waits for its next attempt.
    PENDING = "pending"
    #: All targets took the message.
    DELIVERED = "delivered"
    #: A target did not take the message, and no attempt is left.
    FAILED = "failed"
    #: The run asked for no delivery, such as with `[SILENT]`.
    SILENT = "silent"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The record of executing one occurrence. Instants are aware UTC."""

    #: The job's id and the nominal instant, with a suffix if the run was requested.
    id: str
    job_id: str
    #: The job's name when the run was made.
    job_name: str
    #: The nominal instant of the occurrence.
    due_at: datetime
    queued_at: datetime
    state: RunState
    #: What made the run.
    trigger: Trigger = Trigger.SCHEDULE
    #: When the latest attempt started.
    started_at: datetime | None = None
    finished_at: datetime | None = None
    #: The number of the latest attempt.
    attempt: int = 1
    #: The worker of the latest attempt.
    worker: str | None = None
    #: Why the run failed.
    error: str | None = None
    #: Why the run ended otherwise, or was skipped.
    reason: str | None = None
    #: The exit code of the script or agent.
    exit_code: int | None = None
    #: The state of the output's delivery.
    delivery: DeliveryState = DeliveryState.NONE
    #: The part of a successful delivery that did not go out as the job asks.
    delivery_warning: str | None = None
    #: Bytes of stored output; None until the run has ended.
    output_bytes: int | None = None
    #: After this time no worker starts the run.
    expires_at: datetime | None = None
    #: Tokens and US dollars that an agent used, over all attempts.
    tokens: int | None = None
    cost_usd: float | None = None
    #: The id of the Celery message that continues the run, if its task handed the run on.
    handed_on: str | None = None
    #: When that message is due, if it is a retry by the task itself.
    retry_at: datetime | None = None
    #: The unreadable parts of the record, in one line; placeholders stand in for them.
    fault: str | None = None

    @property
    def why(self) -> str:
        """The reason for the run's end, or for its waiting; "" if its state says enough."""
        if self.retry_at and not self.state.is_final:
            return (
                f"waits for the retry of {iso(self.retry_at)}; if that time is past, the message "
                "was lost with its worker, or no worker takes it"
            )
        if self.handed_on and not self.state.is_final:
            return f"its task handed it on; the Celery message {self.handed_on} continues it"
        return self.error or self.reason or ""

    def as_json(self) -> dict[str, Any]:
        """Return the values under the stable keys of `--json`; instants are in ISO 8601, UTC."""
        record = msgspec.structs.asdict(self)
        for name in ("due_at", "queued_at", "started_at", "finished_at", "expires_at", "retry_at"):
            record[name] = iso(record[name])
        return record


_RUN_ID = re.compile(r"[0-9a-f]{12}-\d{8}T\d{6}(\.\d{3})?Z(-[0-9a-f]{4,16})?")


def run_id_of(job_id: str, due_ms: int, *, manual: str = "") -> str:
    """Return the run id of an occurrence: job id, instant in UTC, and a tag for a manual run.

    `due_ms` is Unix milliseconds. The tag `manual` keeps a manual run apart from the scheduled run,
    and from other manual runs, of the same instant.
    """
    return f"{job_id}-{_instant(due_ms)}" + (f"-{manual}" if manual else "")


@lru_cache(maxsize=256)  # many jobs are due at the same instant
def _instant(ms: int) -> str:
    seconds, fraction = divmod(ms, 1000)
    text = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))
    return f"{text}.{fraction:03d}Z" if fraction else f"{text}Z"


def message_id_of(run_id: str, *, push: int = 0) -> str:
    """Return the Celery id of a run's message: the run id, followed by a number if pushed again.

    Celery's workers remember revoked and expired ids for hours and drop messages with such an id.
    """
    return f"{run_id}.{push}" if push else run_id


def is_scheduled(run_id: str) -> bool:
    """Return whether a run's id shows that the job's schedule made it."""
    return run_id.count("-") == 1


def is_run_id(text: str) -> bool:
    """Return whether a text has the form of a run id."""
    return _RUN_ID.fullmatch(text) is not None


def job_id_of(run_id: str) -> str:
    """Return the job id in a run id."""
    return run_id[:12]


def due_ms_of(run_id: str) -> int:
    """Return the nominal instant in a run id, in Unix milliseconds."""
    seconds, _, fraction = run_id.split("-")[1].rstrip("Z").partition(".")
    instant = datetime.strptime(f"{seconds}+0000", "%Y%m%dT%H%M%S%z")
    return to_ms(instant) + int(fraction or 0)


class Occurrence(msgspec.Struct, frozen=True, kw_only=True):
    """One nominal instant of a job; `due_ms` is in Unix milliseconds."""

    job_id: str
    due_ms: int
    manual: str = ""

    @property
    def run_id(self) -> str:
        """The id of the occurrence's run."""
        return run_id_of(self.job_id, self.due_ms, manual=self.manual)

    @property
    def due_at(self) -> datetime:
        """The nominal instant, aware UTC."""
        return from_ms(self.due_ms)


def occurrence_at(job_id: str, instant: datetime) -> Occurrence:
    """Return the scheduled occurrence of a job at an aware instant."""
    return Occurrence(job_id=job_id, due_ms=to_ms(instant))


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens and US dollars that an agent's run used."""

    tokens: int = 0
    cost_usd: float = 0.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a run, as the runner reports it to the store."""

    state: RunState
    output: bytes = b""
    stderr: bytes = b""
    error: str | None = None
    reason: str | None = None
    exit_code: int | None = None
    #: The run succeeded and asked for no delivery.
    silent: bool = False
    usage: Usage | None = None
