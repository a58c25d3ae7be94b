"""The lease, the term and the leader of each shard of the due index, as stored.

`scheduling.lease` decides from these answers whether a beat may act.
"""

from __future__ import annotations

import re

import msgspec

from hermes_celery.core.readable import readable
from hermes_celery.errors import RecordBroken
from hermes_celery.store.database import Database

#: A valid term, as lease_take.lua accepts it.
_COUNT = re.compile("0|[1-9][0-9]{0,14}")


class LeaseAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request for the lease."""

    is_ours: bool
    #: The current term: the leader's fencing token.
    term: int
    #: Milliseconds until another beat's lease ends; 0 if it is ours.
    free_in_ms: int
    #: Each broken key that was moved to quarantine, and what was wrong with it.
    mended: tuple[tuple[str, str], ...] = ()


class StoredLease:
    """The lease of one shard."""

    def __init__(self, database: Database, *, shard: int = 0) -> None:
        keys = database.keys
        self._database = database
        self._lease, self._term = keys.lease_of(shard), keys.term_of(shard)
        self._leader = keys.leader_of(shard)

    def take(self, owner: str, *, lease_ms: int, now_ms: int, known: int) -> LeaseAnswer:
        """Become the leader if there is none.

        `known` is the greatest term that the caller knows; a new term is above it.
        """
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
        """Extend our lease; return False when it expired or another beat leads."""
        answer = self._database.run(
            "lease_renew",
            keys={"lease": self._lease, "term": self._term},
            args={"owner": owner, "lease_ms": lease_ms, "token": token},
        )
        return bool(answer == "ok")

    def release(self, owner: str) -> None:
        """Release our lease, and wake the standby beats."""
        self._database.run(
            "lease_release",
            keys={"lease": self._lease},
            args={"owner": owner, "wake": self._database.keys.wake},
        )


class Leaders(msgspec.Struct, frozen=True, kw_only=True):
    """The leaders of all shards, as far as they are readable."""

    #: The owner of each shard's lease; None for a shard without a leader.
    owners: list[str | None]
    #: The term of shard 0, which counts changes of leadership.
    term: int
    #: The broken keys.
    faults: list[RecordBroken]


def read_leaders(database: Database) -> Leaders:
    """Return the leader of each shard.

    A lease without an expiry is a fault: its owner may be dead.
    """
    keys = database.keys
    leases = [keys.lease_of(shard) for shard in range(database.shards)]
    found = database.call_many([("GET", lease) for lease in leases])
    left = database.call_many([("PTTL", lease) for lease in leases])
    faults = []
    for lease, owner, left_ms in zip(leases, found, left, strict=True):
        if isinstance(owner, RecordBroken):
            faults.append(owner)
        elif left_ms == -1:
            faults.append(RecordBroken(lease, "has no expiry; the next beat sets one"))
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
    raise RecordBroken(key, f"is {text[:20]!r}, not a count of terms")
