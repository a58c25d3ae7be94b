"""Forgetting: runs by number and age, completed jobs by age, in small steps.

The scripts note which jobs got new runs, so only those are counted; nothing here looks at all jobs.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hermes_celery.errors import Conflict, JobNotFound
from hermes_celery.job import JobState
from hermes_celery.store.database import Database
from hermes_celery.store.jobs import Jobs

_DAY_MS = 86_400_000
#: Runs that one script call forgets: far below a millisecond of Redis' time.
_STEP = 50
#: Jobs that one pass counts.
_JOBS = 50


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept."""

    runs_per_job: int = 100
    run_days: int = 30
    completed_job_days: int = 7


class History:
    """What is over, in one namespace."""

    def __init__(self, database: Database, *, retention: Retention) -> None:
        self._database = database
        self._keys = database.keys
        self._retention = retention

    def trim(self, now_ms: int) -> int:
        """One small step: forget what is beyond number or age; returns how many runs went."""
        return self._trim_old(now_ms) + self._trim_grown()

    def remove_completed(self, jobs: Jobs, now_ms: int) -> int:
        """Remove jobs that were completed long ago; returns how many."""
        before = now_ms - self._retention.completed_job_days * _DAY_MS
        ids = self._database.call(
            "ZRANGEBYSCORE", self._keys.completed, "-inf", before, "LIMIT", 0, _STEP
        )
        removed = 0
        for job_id in ids:
            try:
                job = jobs.get(job_id)
                if job.state is JobState.COMPLETED:
                    jobs.remove(job)
                    removed += 1
            except Conflict:
                continue
            except JobNotFound:
                pass
            self._database.call("ZREM", self._keys.completed, job_id)
        return removed

    def _trim_old(self, now_ms: int) -> int:
        before = now_ms - self._retention.run_days * _DAY_MS
        ids = self._database.call(
            "ZRANGEBYSCORE", self._keys.runs, "-inf", before, "LIMIT", 0, _STEP
        )
        return self._forget(ids)

    def _trim_grown(self) -> int:
        """Forget the oldest runs of jobs that have more than they may."""
        forgotten = 0
        for job_id in self._database.call("SPOP", self._keys.grown, _JOBS):
            first, last = f"[{job_id}-", f"[{job_id}."
            count = int(self._database.call("ZLEXCOUNT", self._keys.job_runs, first, last))
            excess = min(count - self._retention.runs_per_job, _STEP)
            if excess <= 0:
                continue
            ids = self._database.call(
                "ZRANGEBYLEX", self._keys.job_runs, first, last, "LIMIT", 0, excess
            )
            if self._forget(ids) == _STEP:
                # There may be more of them: look again in the next pass.
                self._database.call("SADD", self._keys.grown, job_id)
            forgotten += len(ids)
        return forgotten

    def _forget(self, ids: Sequence[str]) -> int:
        if not ids:
            return 0
        keys = [self._keys.runs, self._keys.job_runs]
        for run_id in ids:
            keys += (self._keys.run(run_id), self._keys.output(run_id), self._keys.stderr(run_id))
        return int(self._database.run("forget", keys=keys, args=list(ids)))
