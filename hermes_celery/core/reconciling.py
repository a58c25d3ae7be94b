"""What must agree in the store: facts about one job or run in, findings and their mends out.

Nothing here reads or writes. The facts of one subject are read in one step; what follows from them
is decided here; and the mend is written in one step that first compares the facts (`mend.lua`), so
that a decision which is out of date changes nothing. Every rule holds for one step of the server:
a healthy job never breaks it, whatever ticks, claims and finishes at the same moment.

Words of a newer version (a state, a trigger, a delivery that is unknown here) are no fault where
nothing is under way: they are kept.
"""

from __future__ import annotations

import re
from enum import Enum, StrEnum

import msgspec

from hermes_celery.core.run import MOST_HOPS

#: As `_checked.lua` reads it: what a script refuses must be mended.
_WHOLE = re.compile(r"[0-9]{1,16}|-[0-9]{1,15}")
_SHOWN = 40


class WrongType(Enum):
    """What a fact is whose key is of another type."""

    TYPE = "wrong type"


#: A stored value; None: there is none.
Fact = str | WrongType | None


class KeyRole(StrEnum):
    """Which key of a job or run a write goes to; the scripts count them in this order."""

    JOB = "job"
    DUE = "due"
    #: The due index that the job's entry was found in, where that is not its own.
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
    #: A key that is looked at by itself.
    KEY = "key"
    #: The mark by which the leader's sweep knows that all records are to be read.
    REFILL = "refill"
    #: The sweep's hash, where notes are left of what is to be told.
    SWEEP = "sweep"


class MendVerb(StrEnum):
    """What a write does with its key; the store knows the command for it."""

    #: Set fields of a record.
    SET = "set"
    #: Take fields out of a record.
    CLEAR = "clear"
    #: Put into an index, by a score.
    ENTER = "enter"
    #: Take out of an index.
    LEAVE = "leave"
    #: Move the key out of the way, and keep it.
    QUARANTINE = "quarantine"
    #: Take a run out of those that are held.
    UNHOLD = "unhold"
    #: Give the key another value.
    REPLACE = "replace"
    #: Let the key end by itself.
    EXPIRE = "expire"
    #: Leave a note of what is to be told; it is written before everything else.
    NOTE = "note"


class MendWrite(msgspec.Struct, frozen=True, kw_only=True):
    """One write."""

    verb: MendVerb
    role: KeyRole
    args: tuple[str, ...] = ()


class DisagreementKind(StrEnum):
    """What sort of disagreement."""

    #: A job that would never run again, for no reason.
    STOPPED = "stopped"
    #: A record or key that cannot be read, or a field of it.
    BROKEN = "broken"
    #: An index and a record that say different things.
    DISAGREES = "disagrees"
    #: An entry for something that is gone, or over.
    GHOST = "ghost"


class Disagreement(msgspec.Struct, frozen=True, kw_only=True):
    """One disagreement."""

    trouble: DisagreementKind
    #: A job's or run's id, or a key.
    subject: str
    #: "" where it is no single job's.
    job_id: str = ""
    #: One line: what is wrong, and what becomes of it.
    text: str
    #: What to write; nothing where only a person can decide.
    ops: tuple[MendWrite, ...] = ()
    is_mended: bool = False
    #: Whether a job was there until its record vanished: nothing will run it again.
    is_job_gone: bool = False


class MendDeadlines(msgspec.Struct, frozen=True, kw_only=True):
    """The instants that mends write, Unix ms."""

    now_ms: int
    redeliver_ms: int
    heartbeat_ms: int


def whole(fact: Fact) -> int | None:
    """A fact as a whole number; None where it is none."""
    return int(fact) if isinstance(fact, str) and _WHOLE.fullmatch(fact) else None


def is_fine(name: str, fact: Fact) -> bool:
    """Whether a field can be read as the number that it must be, or may be missing."""
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
    """Whether a fact is a finite number."""
    try:
        return isinstance(fact, str) and abs(float(fact)) < float("inf")
    except ValueError:
        return False


def score(fact: Fact) -> float | None:
    """A score that is an instant; None where there is none, or it is infinite."""
    return float(fact) if isinstance(fact, str) and is_float(fact) else None


def shown(fact: Fact) -> str:
    """A stored value for people: its beginning, in printable characters."""
    if not isinstance(fact, str):
        return "missing"
    return ascii(fact if len(fact) <= _SHOWN else fact[:_SHOWN] + "...")


def op(verb: MendVerb, role: KeyRole, *args: str | int) -> MendWrite:
    """One write, numbers as text."""
    return MendWrite(verb=verb, role=role, args=tuple(str(arg) for arg in args))
