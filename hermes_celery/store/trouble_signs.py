"""What the watchdog looks at: indexes and counters, a bounded number of entries of each."""

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
#: The year 9999: a run that was recorded later was not.
_NEVER_MS = 253_370_764_800_000


class WaitingRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that no worker has taken in its first attempt, or whose task's own retry is awaited."""

    id: str
    job_id: str
    job_name: str
    due_ms: int
    queue: str
    #: When the retry that it waits for was to be performed; None where it waits for none.
    retry_ms: int | None = None


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
                job_name=readable(row.get("job_name", "")),
                due_ms=due_ms_of(run_id),
                queue=readable(row.get("queue", self._keys.default_queue)),
                retry_ms=Fields(row).number("retry_ms"),
            )
            for run_id, row in zip(ids, rows, strict=True)
            # What cannot be read is the rescue's to report.
            if is_run_id(run_id) and not isinstance(row, RecordBroken) and _waits(row)
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
        """Jobs that are due since `before_ms` or longer and were not ticked."""
        pages = self._database.call_many(
            [
                ("ZRANGEBYSCORE", key, "-inf", before_ms, "LIMIT", 0, limit)
                for key in self._due_keys()
            ]
        )
        # An index that cannot be read is told by the beat that ticks it.
        found = [job_id for page in pages if not isinstance(page, StoreError) for job_id in page]
        return found[:limit]

    def has_jobs(self) -> bool:
        """Whether any job is scheduled."""
        counts = self._database.call_many([("ZCARD", key) for key in self._due_keys()])
        return any(count for count in counts if not isinstance(count, StoreError))

    def workers(self, now_ms: int) -> int:
        """How many workers said within ten seconds that they are there."""
        return int(self._database.call("ZCOUNT", self._keys.workers, now_ms - _ALIVE_MS, "+inf"))

    def worker_of(self, run_id: str) -> str:
        """Who performed a run last; "" where that is not known."""
        return str(self._database.call("HGET", self._keys.run(run_id), "worker") or "")

    def is_worker_there(self, worker: str, now_ms: int) -> bool:
        """Whether a worker said within ten seconds that it is there."""
        seen = self._database.call("ZSCORE", self._keys.workers, worker)
        return seen is not None and float(seen) >= now_ms - _ALIVE_MS

    def newest_letter(self) -> DeadLetter | None:
        """The last message that nobody could read, if it is kept."""
        return next(iter(Letters(self._database).latest(limit=1)), None)

    def _due_keys(self) -> list[str]:
        return [self._keys.due_of(shard) for shard in range(self._database.shards)]

    def leader_seen(self, now_ms: int) -> int | None:
        """When a leader was last seen here, before now; it is now."""
        before = self.leader_seen_at()
        self._database.call("HSET", self._keys.leader, "seen_ms", now_ms)
        return before

    def leader_seen_at(self) -> int | None:
        """When a leader was last seen here; None where that cannot be read."""
        return Fields(self._database.hashes([self._keys.leader])[0]).number("seen_ms")


def _waits(row: Mapping[str, str]) -> bool:
    """Whether a run waits for a worker in its first attempt, or for its retry, and is expected."""
    if row.get("state") == RunState.QUEUED and "retry_ms" in row:
        return True
    return (
        row.get("state") == RunState.QUEUED
        and row.get("attempt", "1") == "1"
        and row.get("trigger") != Trigger.BACKFILL
        # What its task has handed it on to may take its time.
        and "handed_on" not in row
    )
