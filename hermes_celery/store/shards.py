"""Shards: the due index split by job id, so that several beats tick at once, each its own part.

A job belongs to one shard by its id. An entry that lies in another one (somebody wrote it with an
older number of shards in mind) is sent home by the tick that finds it; until then nothing is lost
and nothing runs twice, for whoever advances a job compares.
"""

from __future__ import annotations

from collections.abc import Sequence

from hermes_celery.errors import RecordBroken, StoreError
from hermes_celery.store.database import Database, call_of, scored, shard_of, whole

_PAGE = 500
#: No beat says that it lives for longer; whoever seems to is no beat.
_LONGEST_MS = 60_000


class Shards:
    """Into how many shards a namespace's due index is split, and which beats live."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def count(self) -> int:
        """How many there are now. This process writes by that number from here on."""
        self._database.forget_shards()
        return self._database.shards

    def set_count(self, shards: int) -> None:
        """Write their number; for `resharding`, which keeps beats away meanwhile."""
        self._database.call("SET", self._keys.shards, shards)
        self._database.forget_shards()

    def leaders(self) -> list[str]:
        """Who leads a shard now, each name once."""
        leases = [self._keys.lease_of(shard) for shard in range(self._database.shards)]
        owners = self._database.call_many([("GET", lease) for lease in leases])
        return sorted({owner for owner in owners if isinstance(owner, str)})

    def fault(self) -> RecordBroken | None:
        """What is wrong with the stored number of shards, as it was read last."""
        return self._database.shards_fault()

    def join(self, owner: str, *, now_ms: int, dead_ms: int) -> dict[str, int]:
        """Say that a beat lives until `dead_ms`; every living beat with that instant of its own."""
        answer = self._database.run(
            "join_beats",
            keys={
                "beats": self._keys.beats,
                "aside": self._keys.quarantine(self._keys.beats, at_ms=now_ms),
            },
            args={
                "owner": owner,
                "now_ms": now_ms,
                "dead_ms": dead_ms,
                "latest_ms": now_ms + _LONGEST_MS,
            },
        )
        return {name: whole(ms) for name, ms in scored(answer)}

    def leave(self, owner: str) -> None:
        """Say that a beat is gone."""
        self._database.call("ZREM", self._keys.beats, owner)

    def sort(self, shard: int, *, shards: int, start: int) -> tuple[int, int]:
        """Send home what lies in a shard and belongs elsewhere: one page, from a rank on.

        Returns how many entries went and how many stayed; none of both at the end.
        """
        key = self._keys.due_of(shard)
        ids = self._database.call("ZRANGE", key, start, start + _PAGE - 1)
        staying = send_home(self._database, ids, shard=shard, shards=shards)
        return len(ids) - len(staying), len(staying)


def send_home(database: Database, ids: Sequence[str], *, shard: int, shards: int) -> list[str]:
    """Of jobs that lie in a shard, those that belong there; the others go where they do.

    One that cannot be read stays where it is.
    """
    if shards == 1 and shard == 0:
        return list(ids)
    staying, calls, keys = [], [], database.keys
    for job_id in ids:
        home = shard_of(job_id, shards=shards)
        if home == shard:
            staying.append(job_id)
        else:
            indexes = {"source": keys.due_of(shard), "home": keys.due_of(home)}
            calls.append(
                call_of(
                    "send_home",
                    keys={"job": keys.job(job_id), **indexes},
                    args={"job_id": job_id},
                )
            )
    for call, answer in zip(calls, database.run_many("send_home", calls), strict=True):
        if isinstance(answer, RecordBroken):
            # Whoever reads it here learns what is wrong with it.
            staying.append(str(call.args[0]))
        elif isinstance(answer, StoreError):
            raise answer
    return staying
