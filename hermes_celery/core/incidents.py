"""The kinds of incidents, and the rules for when and how a person is notified of one.

Failures that look alike are one incident. People are notified of the first failure at once, and
then of the 3rd, 10th, 30th, 100th ... repeat. An acknowledged incident stays quiet. When the
trouble is over, they are notified of that too. Values and decisions only; `store.incidents` counts.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from hermes_celery.core.answers import failure_summary
from hermes_celery.core.run import RunState
from hermes_celery.instant import iso

if TYPE_CHECKING:
    from hermes_celery.core.job import JobSpec

#: Final states of runs that make an incident.
FAILED = frozenset({RunState.FAILED, RunState.TIMED_OUT, RunState.LOST})
_MAX_REASON = 180
#: Parts that differ between failures of the same kind: times, ids, addresses, numbers, paths.
_VARYING = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d\S*|\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\b0x[0-9a-f]+\b"
    r"|\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b|(?:/[\w.@+-]+){2,}|\d+(?:\.\d+)?",
    re.IGNORECASE,
)


class TroubleKind(StrEnum):
    """The kind of a trouble."""

    #: Runs of a job fail.
    FAILURE = "failure"
    #: A run waits for a worker for longer than its grace.
    LATE = "late"
    #: An occurrence was never run, or a job is overdue although a beat leads.
    MISSED = "missed"
    #: No beat has ticked for a while.
    BEAT = "beat"
    #: There is work on the queue and no worker.
    WORKERS = "workers"
    #: A stored record or key was invalid.
    BROKEN = "broken"
    #: Runs wait on a queue that no worker consumes, or whose workers no longer take runs.
    QUEUE = "queue"
    #: The workers of a queue do not report, so its runs are only `sent`.
    UNFOLLOWED = "unfollowed"
    #: A queue grows, or its oldest run waits too long.
    BACKLOG = "backlog"
    #: Most occurrences of a job are skipped because the previous run still runs.
    OVERLAP = "overlap"
    #: The server's memory is nearly full.
    MEMORY = "memory"
    #: The disk of a Hermes home is nearly full.
    DISK = "disk"
    #: A job had lost its next run without a reason.
    STOPPED = "stopped"
    #: A queue has unreadable messages.
    LETTERS = "letters"
    #: A project shares its namespace with another one, or its jobs are in another namespace.
    NAMESPACE = "namespace"
    #: A run was stopped, but still occupies a slot of its worker.
    STUCK = "stuck"
    #: A project declares a job that is refused, or that may not work.
    DECLARED = "declared"
    #: Jobs have vanished because the server lost its data.
    GONE = "gone"

    @property
    def stored(self) -> str:
        """The word in the stored field `kind`.

        Version 0.1.0 fails on a kind that it does not know. So a newer kind is stored as the
        nearest old one that 0.1.0 never closes by itself, and the field `sort` has the exact word.
        """
        return self.value if self in _FIRST_KINDS else TroubleKind.MISSED.value


_FIRST_KINDS = frozenset(
    (
        TroubleKind.FAILURE,
        TroubleKind.LATE,
        TroubleKind.MISSED,
        TroubleKind.BEAT,
        TroubleKind.WORKERS,
    )
)

_OVER = {
    TroubleKind.FAILURE: "failed",
    TroubleKind.LATE: "was late",
    TroubleKind.MISSED: "was missed",
    TroubleKind.BROKEN: "had a broken record",
    TroubleKind.STOPPED: "had stopped",
}


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong now; it opens an incident, or counts as one more of an open one."""

    kind: TroubleKind
    #: The job, run, queue or host in trouble; "" if only one of its kind exists.
    subject: str
    #: What is wrong and what to do next, in one line.
    text: str
    #: The error of a failure, which distinguishes the failures of one subject.
    error: str = ""
    #: The job in trouble; "" if it is not a single job.
    job_id: str = ""
    job_name: str = ""
    run_id: str = ""
    #: Where the notice goes; "" for the target of alerts.
    deliver: str = ""
    #: A person wanted this: notify once, and not again while it lasts.
    is_news: bool = False
    #: Workers cannot deliver the notice; the process that found the trouble sends it.
    from_here: bool = False

    @property
    def incident_id(self) -> str:
        """The id of the incident that the trouble belongs to."""
        return incident_id(self.kind, self.subject, error=self.error)

    @classmethod
    def of_job(cls, spec: JobSpec, kind: TroubleKind, text: str, *, run_id: str = "") -> Trouble:
        """Make the trouble of a job; its notice goes to that job's target for failures."""
        return cls(
            kind=kind,
            subject=spec.id,
            text=text,
            job_id=spec.id,
            job_name=spec.name,
            run_id=run_id,
            deliver=failure_target(spec),
        )


class ReportsTroubles(Protocol):
    """Turns troubles into incidents, and notifies people when a notice is due."""

    def tell(self, trouble: Trouble, *, now_ms: int) -> bool:
        """Count a trouble (`now_ms`: Unix ms) and return whether people are notified now.

        Raises StoreError.
        """

    def over(self, incidents: list[Incident], text: str, *, now_ms: int) -> None:
        """Close incidents, and notify the people who were notified of them. Raises StoreError."""


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One trouble with the number of its repeats. Instants are aware UTC."""

    id: str
    kind: TroubleKind
    #: The job in trouble; "" if it is not a single job.
    job_id: str
    job_name: str
    #: What is wrong, in one line.
    text: str
    count: int
    #: The value of `count` at the last notice; 0 if there was none.
    told: int
    first_at: datetime
    last_at: datetime
    last_run_id: str | None = None
    acked_at: datetime | None = None
    closed_at: datetime | None = None
    #: The unreadable parts of the record, in one line; placeholders stand in for them.
    fault: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the values under the stable keys of `--json`; instants are in ISO 8601, UTC."""
        record = msgspec.structs.asdict(self)
        for name in ("first_at", "last_at", "acked_at", "closed_at"):
            record[name] = iso(record[name])
        return record


def failure_target(spec: JobSpec) -> str:
    """Return where notices of a job's troubles go: its target for failures, else for its output."""
    return spec.failure_deliver or spec.deliver


def is_telling(count: int) -> bool:
    """Return whether to notify people of this repeat: number 1, 3, 10, 30, 100, 300 ..."""
    while count >= 10 and count % 10 == 0:
        count //= 10
    return count in (1, 3)


def is_worth_telling(count: int, *, told: int, is_acked: bool) -> bool:
    """Return whether a notice is due now; the last one was sent at the count `told`."""
    if is_acked or count <= told:
        return False
    return any(is_telling(number) for number in range(told + 1, count + 1)) if told else True


def signature(error: str) -> str:
    """Return what failures of one kind have in common: the first line without its varying parts."""
    first = error.strip().split("\n")[0][:500]
    if error.startswith("Script exited with code"):
        # The exit code says little; the last printed line says why.
        lines = [line for line in error.splitlines() if line.strip()]
        first = f"{first} {lines[-1][:500]}"
    return " ".join(_VARYING.sub("#", first).casefold().split())


def incident_id(kind: TroubleKind, subject: str, *, error: str = "") -> str:
    """Return the id of an incident: kind, subject, and a digest of the failure's signature."""
    digest = hashlib.sha256(signature(error).encode()).hexdigest()[:8] if error else ""
    return "-".join(part for part in (kind.value, subject, digest) if part)


def failure_line(job_name: str, error: str | None, *, is_agent: bool) -> str:
    """Describe a failed run in one line, in Hermes' words.

    Only an agent's error is classified as a provider's. A script's "timed out" is its own.
    """
    if is_agent:
        return failure_summary(job_name, error)
    line = " ".join((error or "unknown error")[:2000].split())
    if len(line) > _MAX_REASON:
        line = line[: _MAX_REASON - 3].rstrip() + "..."
    return f"⚠️ Cron '{job_name}' failed: {line}"


def with_next_step(summary: str, run_id: str, *, count: int = 1) -> str:
    """Add the number of repeats and the next command to type to a line."""
    repeats = f" ({count} times since the last success)" if count > 1 else ""
    return f"{summary}{repeats} → hermes-celery logs {run_id}"


def recovery(incidents: list[Incident]) -> str:
    """Return the notice that a job works again."""
    counts = Counter[str]()
    for incident in incidents:
        counts[_OVER.get(incident.kind, "was in trouble")] += incident.count
    what = ", ".join(
        f"{word} {'once' if n == 1 else f'{n} times'}" for word, n in sorted(counts.items())
    )
    first = min(incident.first_at for incident in incidents)
    name = incidents[0].job_name
    return f"✅ Cron '{name}' works again; it {what} since {first:%Y-%m-%d %H:%M} UTC"
