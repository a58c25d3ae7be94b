"""Read signs of trouble for the watchdog: a bounded number of entries from indexes and counters."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hermes_celery.core.dead_letters import DeadLetter
from hermes_celery.core.readable import readable
from hermes_celery.core.run import RunState, Trigger, due_ms_of, is_run_id, job_id_of
from hermes_celery.errors import RecordBroken, StoreError
from hermes_celery.store.database import Database, scored, whole
from hermes_celery.store.letters import Letters
from hermes_celery.store.record_fields import Fields

_ALIVE_MS = 10_000
#: The year 9999: a later score in the index of runs is invalid.
_NEVER_MS = 253_370_764_800_000


class WaitingRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that waits for a worker in its first attempt, or for its task's own retry."""

    id: str
    job_id: str
    job_name: str
    due_ms: int
    queue: str
    #: When the awaited retry was to be executed; None without a retry.
    retry_ms: int | None = None


class SkippedRun(msgspec.Struct, frozen=True, kw_only=True):
    """An occurrence that was recorded as skipped."""

    id: str
    job_id: str
    job_name: str
    reason: str


class TroubleSigns:
    """Reads one namespace's signs of trouble. All times are the server's, Unix milliseconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def waiting(self, *, limit: int) -> list[WaitingRun]:
        """Return at most `limit` runs that wait for a worker, earliest next push first."""
        ids = self._database.call("ZRANGE", self._keys.queued, 0, limit - 1)
        rows = self._database.hashes([self._keys.run(run_id) for run_id in ids])
        return [
            WaitingRun(
                id=run_id,
                job_id=job_id_of(run_id),
                job_name=readable(row.get("job_name", "")),
                due_ms=due_ms_of(run_id),
                queue=readable(row.get("queue", self._keys.default_queue)),
                retry_ms=Fields(row).number("retry_ms"),
            )
            for run_id, row in zip(ids, rows, strict=True)
            # Rescue reports unreadable runs.
            if is_run_id(run_id) and not isinstance(row, RecordBroken) and _waits(row)
        ]

    def skipped_since(self, since_ms: int, *, limit: int) -> tuple[list[SkippedRun], int]:
        """Return occurrences recorded as skipped after `since_ms`.

        The second value is the time up to which records were read.
        """
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
        pairs = [(run_id, whole(score)) for run_id, score in scored(rows) if score < _NEVER_MS]
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
                job_name=readable(row.get("job_name", "")),
                reason=readable(row.get("reason", "")),
            )
            for (run_id, _), row in zip(pairs, found, strict=True)
            if not isinstance(row, RecordBroken) and row.get("state") == RunState.SKIPPED
        ]
        return skipped, max((score for _, score in pairs), default=since_ms)

    def overdue(self, before_ms: int, *, limit: int) -> list[str]:
        """Return at most `limit` jobs that were due at `before_ms` or earlier."""
        pages = self._database.call_many(
            [
                ("ZRANGEBYSCORE", key, "-inf", before_ms, "LIMIT", 0, limit)
                for key in self._due_keys()
            ]
        )
        # The beat that ticks an unreadable index reports it.
        found = [job_id for page in pages if not isinstance(page, StoreError) for job_id in page]
        return found[:limit]

    def has_jobs(self) -> bool:
        """Return whether any job is scheduled."""
        counts = self._database.call_many([("ZCARD", key) for key in self._due_keys()])
        return any(count for count in counts if not isinstance(count, StoreError))

    def workers(self, now_ms: int) -> int:
        """Return the number of workers with a sign of life in the last ten seconds."""
        return int(self._database.call("ZCOUNT", self._keys.workers, now_ms - _ALIVE_MS, "+inf"))

    def worker_of(self, run_id: str) -> str:
        """Return the worker that last executed a run; "" if unknown."""
        return str(self._database.call("HGET", self._keys.run(run_id), "worker") or "")

    def is_worker_there(self, worker: str, now_ms: int) -> bool:
        """Return whether a worker gave a sign of life in the last ten seconds."""
        seen = self._database.call("ZSCORE", self._keys.workers, worker)
        return seen is not None and float(seen) >= now_ms - _ALIVE_MS

    def newest_letter(self) -> DeadLetter | None:
        """Return the latest undecodable message, if it is kept."""
        return next(iter(Letters(self._database).latest(limit=1)), None)

    def _due_keys(self) -> list[str]:
        return [self._keys.due_of(shard) for shard in range(self._database.shards)]

    def leader_seen(self, now_ms: int) -> int | None:
        """Record that a leader is seen now; return when one was last seen before."""
        before = self.leader_seen_at()
        self._database.call("HSET", self._keys.leader, "seen_ms", now_ms)
        return before

    def leader_seen_at(self) -> int | None:
        """Return when a leader was last seen; None if that is unreadable."""
        return Fields(self._database.hashes([self._keys.leader])[0]).number("seen_ms")


def _waits(row: Mapping[str, str]) -> bool:
    """Return whether a run waits for a worker in its first attempt, or for its task's retry."""
    if row.get("state") == RunState.QUEUED and "retry_ms" in row:
        return True
    return (
        row.get("state") == RunState.QUEUED
        and row.get("attempt", "1") == "1"
        and row.get("trigger") != Trigger.BACKFILL
        # A run that its task handed on may take its time.
        and "handed_on" not in row
    )
