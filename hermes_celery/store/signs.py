"""What the scanner looks at: indexes and counters, a bounded number of entries of each."""

from __future__ import annotations

import msgspec

from hermes_celery.run import RunState, Trigger, due_ms_of, job_id_of
from hermes_celery.store.database import Database

_ALIVE_MS = 10_000


class WaitingRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run in its first attempt that no worker has taken."""

    id: str
    job_id: str
    job_name: str
    due_ms: int
    queue: str


class SkippedRun(msgspec.Struct, frozen=True, kw_only=True):
    """An occurrence that was recorded and never run."""

    id: str
    job_id: str
    job_name: str
    reason: str


class Signs:
    """One namespace's signs of trouble. All times are the server's, Unix milliseconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def waiting(self, *, limit: int) -> list[WaitingRun]:
        """Runs that wait for a worker, those first whose message was pushed first."""
        ids = self._database.call("ZRANGE", self._keys.queued, 0, limit - 1)
        rows = self._database.hashes([self._keys.run(run_id) for run_id in ids])
        return [
            WaitingRun(
                id=run_id,
                job_id=job_id_of(run_id),
                job_name=row["job_name"],
                due_ms=due_ms_of(run_id),
                queue=row.get("queue", self._keys.default_queue),
            )
            for run_id, row in zip(ids, rows, strict=True)
            if row.get("state") == RunState.QUEUED
            and row.get("attempt", "1") == "1"
            and row.get("trigger") != Trigger.BACKFILL
        ]

    def skipped_since(self, since_ms: int, *, limit: int) -> tuple[list[SkippedRun], int]:
        """Occurrences recorded as skipped after `since_ms`, and up to when was looked."""
        rows = self._database.call(
            "ZRANGEBYSCORE",
            self._keys.runs,
            f"({since_ms}",
            "+inf",
            "WITHSCORES",
            "LIMIT",
            0,
            limit,
        )
        pairs = _pairs(rows)
        found = self._database.hashes(
            [self._keys.run(run_id) for run_id, _ in pairs],
            "state",
            "reason",
            "job_name",
        )
        skipped = [
            SkippedRun(
                id=run_id,
                job_id=job_id_of(run_id),
                job_name=row["job_name"],
                reason=row.get("reason", ""),
            )
            for (run_id, _), row in zip(pairs, found, strict=True)
            if row.get("state") == RunState.SKIPPED
        ]
        return skipped, max((score for _, score in pairs), default=since_ms)

    def overdue(self, before_ms: int, *, limit: int) -> list[str]:
        """Jobs that are due since `before_ms` or longer and were not ticked."""
        overdue: list[str] = []
        for key in self._due_keys():
            overdue += self._database.call(
                "ZRANGEBYSCORE", key, "-inf", before_ms, "LIMIT", 0, limit - len(overdue)
            )
        return overdue

    def has_jobs(self) -> bool:
        """Whether any job is scheduled."""
        return any(self._database.call("ZCARD", key) for key in self._due_keys())

    def work_left(self) -> int:
        """How many messages wait on the default queue."""
        return int(self._database.call("LLEN", self._keys.default_queue))

    def workers(self, now_ms: int) -> int:
        """How many workers said within ten seconds that they are there."""
        return int(self._database.call("ZCOUNT", self._keys.workers, now_ms - _ALIVE_MS, "+inf"))

    def _due_keys(self) -> list[str]:
        return [self._keys.due_of(shard) for shard in range(self._database.shards)]

    def leader_seen(self, now_ms: int) -> int | None:
        """When a leader was last seen here, before now; it is now."""
        before = self.leader_seen_at()
        self._database.call("HSET", self._keys.leader, "seen_ms", now_ms)
        return before

    def leader_seen_at(self) -> int | None:
        """When a leader was last seen here."""
        seen = self._database.call("HGET", self._keys.leader, "seen_ms")
        return int(seen) if seen else None


def _pairs(rows: list[object]) -> list[tuple[str, int]]:
    """Members and scores of a WITHSCORES answer, which has two shapes (RESP2, RESP3)."""
    if rows and isinstance(rows[0], (list, tuple)):
        return [(str(row[0]), int(float(row[1]))) for row in rows if isinstance(row, (list, tuple))]
    flat = [str(row) for row in rows]
    return [(m, int(float(s))) for m, s in zip(flat[::2], flat[1::2], strict=True)]
