"""Shards: the due index split by job id, so that several beats tick at once, each its own part.

A job's id determines its shard. An entry may lie in another shard if its writer used an older
number of shards. The tick that finds such an entry moves it to its own shard; until then nothing is
lost and nothing runs twice, because every advance compares the job first.
"""

from __future__ import annotations

from collections.abc import Sequence

from hermes_celery.errors import RecordBroken, StoreError
from hermes_celery.store.database import Database, call_of, scored, shard_of, whole

_PAGE = 500
#: The longest valid time to live in a beat's sign; an entry beyond it is invalid.
_LONGEST_MS = 60_000


class Shards:
    """The number of shards of a namespace's due index, and the living beats."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def count(self) -> int:
        """Read and return the current number; this process uses it from now on."""
        self._database.forget_shards()
        return self._database.shards

    def set_count(self, shards: int) -> None:
        """Store a new number; only for `resharding`, which keeps beats from ticking meanwhile."""
        self._database.call("SET", self._keys.shards, shards)
        self._database.forget_shards()

    def leaders(self) -> list[str]:
        """Return the names of the leaders of all shards, each once."""
        leases = [self._keys.lease_of(shard) for shard in range(self._database.shards)]
        owners = self._database.call_many([("GET", lease) for lease in leases])
        return sorted({owner for owner in owners if isinstance(owner, str)})

    def fault(self) -> RecordBroken | None:
        """Return what is wrong with the stored number of shards, as last read, or None."""
        return self._database.shards_fault()

    def join(self, owner: str, *, now_ms: int, dead_ms: int) -> dict[str, int]:
        """Record that a beat lives until `dead_ms`; return all living beats with their times."""
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
        """Remove a beat that stops."""
        self._database.call("ZREM", self._keys.beats, owner)

    def sort(self, shard: int, *, shards: int, start: int) -> tuple[int, int]:
        """Move one page of a shard's misplaced entries to their own shards, from a rank on.

        Returns how many entries moved and how many stayed; (0, 0) at the end.
        """
        key = self._keys.due_of(shard)
        ids = self._database.call("ZRANGE", key, start, start + _PAGE - 1)
        staying = move_to_own_shard(self._database, ids, shard=shard, shards=shards)
        return len(ids) - len(staying), len(staying)


def move_to_own_shard(
    database: Database, ids: Sequence[str], *, shard: int, shards: int
) -> list[str]:
    """Move misplaced jobs of a shard to their own shards; return the jobs that stay.

    An unreadable job stays.
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
                    "move_to_own_shard",
                    keys={"job": keys.job(job_id), **indexes},
                    args={"job_id": job_id},
                )
            )
    for call, answer in zip(calls, database.run_many("move_to_own_shard", calls), strict=True):
        if isinstance(answer, RecordBroken):
            # The tick that reads it here reports what is wrong.
            staying.append(str(call.args[0]))
        elif isinstance(answer, StoreError):
            raise answer
    return staying
