"""Which beat leads a shard of the due index: the lease, the term and the leader, as stored.

`scheduling.lease` decides from these answers whether a beat may act.
"""

from __future__ import annotations

import re

import msgspec

from hermes_celery.core.readable import readable
from hermes_celery.errors import RecordBroken
from hermes_celery.store.database import Database

#: What lease_take.lua counts on from.
_COUNT = re.compile("0|[1-9][0-9]{0,14}")


class LeaseAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of asking for a lease."""

    is_ours: bool
    #: The term, which is the fencing token of whoever leads.
    term: int
    #: Until somebody else's lease ends, milliseconds; 0 where it is ours.
    free_in_ms: int
    #: Each key that was no lease, term or leader, and what was wrong with it.
    mended: tuple[tuple[str, str], ...] = ()


class StoredLease:
    """The lease of one shard."""

    def __init__(self, database: Database, *, shard: int = 0) -> None:
        keys = database.keys
        self._database = database
        self._lease, self._term = keys.lease_of(shard), keys.term_of(shard)
        self._leader = keys.leader_of(shard)

    def take(self, owner: str, *, lease_ms: int, now_ms: int, known: int) -> LeaseAnswer:
        """Become the leader if nobody is; `known` is the greatest term that the asker knows of."""
        keys = {"lease": self._lease, "term": self._term, "leader": self._leader}
        aside = self._database.keys.quarantine
        word, term, free_in_ms, *mended = self._database.run(
            "lease_take",
            keys=keys | {f"{name}_aside": aside(key, at_ms=now_ms) for name, key in keys.items()},
            args={"owner": owner, "lease_ms": lease_ms, "now_ms": now_ms, "known": known},
        )
        return LeaseAnswer(
            is_ours=word == "ok",
            term=int(term),
            free_in_ms=max(int(free_in_ms), 0),
            mended=tuple(zip(mended[::2], mended[1::2], strict=True)),
        )

    def renew(self, owner: str, *, lease_ms: int, token: int) -> bool:
        """Stay the leader; False where it expired or somebody else leads."""
        answer = self._database.run(
            "lease_renew",
            keys={"lease": self._lease, "term": self._term},
            args={"owner": owner, "lease_ms": lease_ms, "token": token},
        )
        return bool(answer == "ok")

    def release(self, owner: str) -> None:
        """Stop being the leader, and wake whoever stands by."""
        self._database.run(
            "lease_release",
            keys={"lease": self._lease},
            args={"owner": owner, "wake": self._database.keys.wake},
        )


class Leaders(msgspec.Struct, frozen=True, kw_only=True):
    """Who leads, as far as that can be read."""

    #: The owner of each shard's lease; None where nobody leads it.
    owners: list[str | None]
    #: The term of shard 0, which counts changes of leadership.
    term: int
    #: What cannot be read.
    faults: list[RecordBroken]


def read_leaders(database: Database) -> Leaders:
    """Who leads each shard. A lease without an expiry is held by nobody who lives, and told."""
    keys = database.keys
    leases = [keys.lease_of(shard) for shard in range(database.shards)]
    found = database.call_many([("GET", lease) for lease in leases])
    left = database.call_many([("PTTL", lease) for lease in leases])
    faults = []
    for lease, owner, left_ms in zip(leases, found, left, strict=True):
        if isinstance(owner, RecordBroken):
            faults.append(owner)
        elif left_ms == -1:
            faults.append(RecordBroken(lease, "has no expiry; the next beat gives it one"))
    owners = [readable(owner) if isinstance(owner, str) else None for owner in found]
    try:
        term = _term(database)
    except RecordBroken as error:
        term = 0
        faults.append(error)
    return Leaders(owners=owners, term=term, faults=faults)


def _term(database: Database) -> int:
    key = database.keys.term
    found = database.call("GET", key)
    text = "0" if found is None else str(found)
    if _COUNT.fullmatch(text):
        return int(text)
    raise RecordBroken(key, f"is {text[:20]!r}, no count of terms")
