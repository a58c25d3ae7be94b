"""The kinds of incidents: when a trouble is told to a person, and in which words.

Failures that look alike are one incident: the first is told at once, then the 3rd, 10th, 30th,
100th ... repeat; an incident that somebody acknowledged stays quiet; when the trouble is over, that
is told too. Values and decisions only; `store.incidents` counts.
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

#: How a run ends that somebody should hear of.
FAILED = frozenset({RunState.FAILED, RunState.TIMED_OUT, RunState.LOST})
_MAX_REASON = 180
#: What differs between two failures of the same kind: times, ids, addresses, numbers, paths.
_VARYING = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d\S*|\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\b0x[0-9a-f]+\b"
    r"|\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b|(?:/[\w.@+-]+){2,}|\d+(?:\.\d+)?",
    re.IGNORECASE,
)


class TroubleKind(StrEnum):
    """What sort of trouble."""

    #: Runs of a job fail.
    FAILURE = "failure"
    #: A run waits for a worker, longer than its grace.
    LATE = "late"
    #: An occurrence was never run, or a job is overdue although a beat leads.
    MISSED = "missed"
    #: For a while no beat ticked.
    BEAT = "beat"
    #: There is work on the queue and no worker.
    WORKERS = "workers"
    #: A stored record or key was not as it should be.
    BROKEN = "broken"
    #: Runs wait on a queue that nobody consumes, or from which nobody takes any more.
    QUEUE = "queue"
    #: A queue is consumed by workers that do not report; runs there are sent.
    UNFOLLOWED = "unfollowed"
    #: A queue grows, or its oldest run waits too long.
    BACKLOG = "backlog"
    #: Most occurrences of a job are lost because the one before still runs.
    OVERLAP = "overlap"
    #: The server's memory is nearly full.
    MEMORY = "memory"
    #: The disk of a Hermes home is nearly full.
    DISK = "disk"
    #: A job had no next run, for no reason.
    STOPPED = "stopped"
    #: Messages on a queue that nobody can read.
    LETTERS = "letters"
    #: A project shares its namespace with another one, or its jobs are in another namespace.
    NAMESPACE = "namespace"
    #: A run that was stopped and goes on in a slot of its worker.
    STUCK = "stuck"
    #: What a project declares cannot be a job, or not one that works.
    DECLARED = "declared"
    #: Jobs that were there before the server lost its memory.
    GONE = "gone"

    @property
    def stored(self) -> str:
        """The word of the field `kind`.

        Version 0.1.0 ends at a word that it does not know, so a kind that it lacks is stored as
        the nearest one that it never closes by itself; the exact word stands in the field `sort`.
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
    """Something that is wrong now: what becomes an incident, or is one more of it."""

    kind: TroubleKind
    #: What is in trouble: a job, run or queue, a host; "" where there is but one of its kind.
    subject: str
    #: One line, with the next thing to do.
    text: str
    #: The failure's error, which tells different failures of one subject apart.
    error: str = ""
    #: Of the job that is in trouble; "" where it is no single job's.
    job_id: str = ""
    job_name: str = ""
    run_id: str = ""
    #: Where it is told; "" for where alerts go.
    deliver: str = ""
    #: Told once while it lasts: it is as somebody wants it.
    is_news: bool = False
    #: Workers would not deliver a notice of it: it goes out from the process that found it.
    from_here: bool = False

    @property
    def incident_id(self) -> str:
        """The incident that it belongs to."""
        return incident_id(self.kind, self.subject, error=self.error)

    @classmethod
    def of_job(cls, spec: JobSpec, kind: TroubleKind, text: str, *, run_id: str = "") -> Trouble:
        """One of a job, told where that job's troubles are told."""
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
    """Whoever turns a trouble into an incident, and tells of it when that is due."""

    def tell(self, trouble: Trouble, *, now_ms: int) -> bool:
        """Count a trouble (`now_ms`: Unix ms); whether it is told now. Raises StoreError."""

    def over(self, incidents: list[Incident], text: str, *, now_ms: int) -> None:
        """End incidents, and tell that to whoever heard of them. Raises StoreError."""


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One trouble, however often it happened. Instants are aware UTC."""

    id: str
    kind: TroubleKind
    #: "" when it is no single job's.
    job_id: str
    job_name: str
    #: One line.
    text: str
    count: int
    #: How many there were when a person was told last; 0: never told.
    told: int
    first_at: datetime
    last_at: datetime
    last_run_id: str | None = None
    acked_at: datetime | None = None
    closed_at: datetime | None = None
    #: What of its record cannot be read, in one line; stand-ins are in its place.
    fault: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The stable names of `--json`; instants in ISO 8601, UTC."""
        record = msgspec.structs.asdict(self)
        for name in ("first_at", "last_at", "acked_at", "closed_at"):
            record[name] = iso(record[name])
        return record


def failure_target(spec: JobSpec) -> str:
    """Where a job's troubles are told: its own place for them, else where its output goes."""
    return spec.failure_deliver or spec.deliver


def is_telling(count: int) -> bool:
    """Whether the `count`-th time is one to tell: 1, 3, 10, 30, 100, 300 ..."""
    while count >= 10 and count % 10 == 0:
        count //= 10
    return count in (1, 3)


def is_worth_telling(count: int, *, told: int, is_acked: bool) -> bool:
    """Whether to tell a person now, who was last told at `told`."""
    if is_acked or count <= told:
        return False
    return any(is_telling(number) for number in range(told + 1, count + 1)) if told else True


def signature(error: str) -> str:
    """What failures of one kind share: the first line, without what differs between them."""
    first = error.strip().split("\n")[0][:500]
    if error.startswith("Script exited with code"):
        # The code alone says little; the last line of what it printed says why.
        lines = [line for line in error.splitlines() if line.strip()]
        first = f"{first} {lines[-1][:500]}"
    return " ".join(_VARYING.sub("#", first).casefold().split())


def incident_id(kind: TroubleKind, subject: str, *, error: str = "") -> str:
    """The id of an incident: the kind, whose it is, and a digest of the failure's signature."""
    digest = hashlib.sha256(signature(error).encode()).hexdigest()[:8] if error else ""
    return "-".join(part for part in (kind.value, subject, digest) if part)


def failure_line(job_name: str, error: str | None, *, is_agent: bool) -> str:
    """A failed run in one line, in Hermes' words.

    Only what an agent's provider may have said is classified; a script's "timed out" is its own.
    """
    if is_agent:
        return failure_summary(job_name, error)
    line = " ".join((error or "unknown error")[:2000].split())
    if len(line) > _MAX_REASON:
        line = line[: _MAX_REASON - 3].rstrip() + "..."
    return f"⚠️ Cron '{job_name}' failed: {line}"


def with_next_step(summary: str, run_id: str, *, count: int = 1) -> str:
    """The line with how often it happened and what to type next."""
    repeats = f" ({count} times since the last success)" if count > 1 else ""
    return f"{summary}{repeats} → hermes-celery logs {run_id}"


def recovery(incidents: list[Incident]) -> str:
    """What is told when a job works again."""
    counts = Counter[str]()
    for incident in incidents:
        counts[_OVER.get(incident.kind, "was in trouble")] += incident.count
    what = ", ".join(
        f"{word} {'once' if n == 1 else f'{n} times'}" for word, n in sorted(counts.items())
    )
    first = min(incident.first_at for incident in incidents)
    name = incidents[0].job_name
    return f"✅ Cron '{name}' works again; it {what} since {first:%Y-%m-%d %H:%M} UTC"
