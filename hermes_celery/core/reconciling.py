"""The rules about what must agree in the store: from facts about a job or run to findings and
repairs.

Nothing here reads or writes. The facts about one subject are read in one step, and the rules turn
them into findings. A repair is written in one step that first compares the facts again
(`mend.lua`), so that an outdated decision changes nothing. Every rule holds after each single step
of the server: a healthy job never breaks one, whatever ticks, claims and finishes at the same
moment.

Words of a newer version (an unknown state, trigger or delivery state) are no fault if nothing is
under way: they are kept.
"""

from __future__ import annotations

import re
from enum import Enum, StrEnum

import msgspec

from hermes_celery.core.run import MOST_HOPS

#: The same pattern as in `_checked.lua`: what a script refuses must be repaired.
_WHOLE = re.compile(r"[0-9]{1,16}|-[0-9]{1,15}")
_SHOWN = 40


class WrongType(Enum):
    """The fact about a key that has another type."""

    TYPE = "wrong type"


#: A stored value; None if it is missing.
Fact = str | WrongType | None


class KeyRole(StrEnum):
    """The key of a job or run that a write changes; the scripts number them in this order."""

    JOB = "job"
    DUE = "due"
    #: Another shard's due index in which the job's entry was found.
    STRAY = "stray"
    ACTIVE = "active"
    HELD = "held"
    JOBS = "jobs"
    NAMES = "names"
    COMPLETED = "completed"
    RUN = "run"
    QUEUED = "queued"
    HEARTBEATS = "heartbeats"
    DELIVERIES = "deliveries"
    RUNS = "runs"
    JOB_RUNS = "job_runs"
    DELIVERY = "delivery"
    #: A key that is checked on its own.
    KEY = "key"
    #: The mark that makes the leader's sweep read all records.
    REFILL = "refill"
    #: The sweep's hash, which holds notes about incidents to record.
    SWEEP = "sweep"


class MendVerb(StrEnum):
    """The action of a write; the store maps it to a Redis command."""

    #: Set fields of a record.
    SET = "set"
    #: Remove fields from a record.
    CLEAR = "clear"
    #: Add to an index, with a score.
    ENTER = "enter"
    #: Remove from an index.
    LEAVE = "leave"
    #: Rename the key, and so keep its content.
    QUARANTINE = "quarantine"
    #: Remove a run from the held runs.
    UNHOLD = "unhold"
    #: Replace the value of the key.
    REPLACE = "replace"
    #: Set an expiry for the key.
    EXPIRE = "expire"
    #: Write a note about an incident to record; it is written before everything else.
    NOTE = "note"


class MendWrite(msgspec.Struct, frozen=True, kw_only=True):
    """One write of a repair."""

    verb: MendVerb
    role: KeyRole
    args: tuple[str, ...] = ()


class DisagreementKind(StrEnum):
    """The kind of a disagreement."""

    #: A job would never run again, without a reason.
    STOPPED = "stopped"
    #: A record, a field of it or a key is unreadable.
    BROKEN = "broken"
    #: An index and a record contradict each other.
    DISAGREES = "disagrees"
    #: An index has an entry for something that is gone or over.
    GHOST = "ghost"


class Disagreement(msgspec.Struct, frozen=True, kw_only=True):
    """One finding, with the writes that repair it."""

    trouble: DisagreementKind
    #: A job's or run's id, or a key.
    subject: str
    #: The job it belongs to; "" if it is not a single job.
    job_id: str = ""
    #: What is wrong, and how it is repaired, in one line.
    text: str
    #: The writes of the repair; empty if only a person can decide.
    ops: tuple[MendWrite, ...] = ()
    is_mended: bool = False
    #: Whether a job's record vanished, so that the job will never run again.
    is_job_gone: bool = False


class MendDeadlines(msgspec.Struct, frozen=True, kw_only=True):
    """The instants that repairs write, in Unix ms."""

    now_ms: int
    redeliver_ms: int
    heartbeat_ms: int


def whole(fact: Fact) -> int | None:
    """Return a fact as a whole number; None if it is not one."""
    return int(fact) if isinstance(fact, str) and _WHOLE.fullmatch(fact) else None


def is_fine(name: str, fact: Fact) -> bool:
    """Return whether a field is the number that it must be, or may be missing."""
    if fact is None:
        return name != "revision"
    if name in ("spent_cost", "cost_usd"):
        return is_float(fact)
    number = whole(fact)
    if number is None:
        return False
    if name in ("hop", "handed_hop"):
        return 0 <= number <= MOST_HOPS
    return number >= 0 or name not in ("revision", "completed")


def is_float(fact: Fact) -> bool:
    """Return whether a fact is a finite number."""
    try:
        return isinstance(fact, str) and abs(float(fact)) < float("inf")
    except ValueError:
        return False


def score(fact: Fact) -> float | None:
    """Return a score as a number; None if it is missing or not finite."""
    return float(fact) if isinstance(fact, str) and is_float(fact) else None


def fact_text(fact: Fact) -> str:
    """Return the beginning of a stored value in printable characters."""
    if not isinstance(fact, str):
        return "missing"
    return ascii(fact if len(fact) <= _SHOWN else fact[:_SHOWN] + "...")


def op(verb: MendVerb, role: KeyRole, *args: str | int) -> MendWrite:
    """Make one write, with numbers as text."""
    return MendWrite(verb=verb, role=role, args=tuple(str(arg) for arg in args))
