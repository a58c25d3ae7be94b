"""Forgetting: runs by number and age, completed jobs by age, in small steps.

The scripts note which jobs got new runs, so only those are counted; nothing here looks at all jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import msgspec

from hermes_celery.errors import Conflict, JobNotFound, StoreError, StoreUnavailable
from hermes_celery.job import JobState
from hermes_celery.store.database import Database, ScriptCall
from hermes_celery.store.jobs import Jobs

_DAY_MS = 86_400_000
#: Runs that one script call forgets, and runs of one job that one step forgets: far below a
#: millisecond of the server's time.
_STEP = 50
#: Jobs that one step counts: 10,000 a second while there is more to do.
_JOBS = 500
#: Runs that one step forgets: the beat waits for it, about 3 ms. At 20 steps a second 5,000 runs a
#: second; beyond that, history grows until the rate falls.
_MOST = 250


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept."""

    runs_per_job: int = 100
    run_days: int = 30
    completed_job_days: int = 7


class Trimmed(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of forgetting did."""

    runs: int
    #: Whether another step at once would find more.
    has_more: bool


class History:
    """What is over, in one namespace."""

    def __init__(self, database: Database, *, retention: Retention) -> None:
        self._database = database
        self._keys = database.keys
        self._retention = retention

    def trim(self, now_ms: int) -> Trimmed:
        """One small step: forget what is beyond number or age.

        Whatever the backlog, it is five round trips and some hundred runs.
        """
        old, grown = self._trim_old(now_ms), self._trim_grown()
        return Trimmed(runs=old + grown.runs, has_more=old == _STEP or grown.has_more)

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
            except StoreUnavailable:
                raise
            except (JobNotFound, StoreError):
                pass  # gone, or not to be read: people may still look at it, and remove it
            self._database.call("ZREM", self._keys.completed, job_id)
        return removed

    def _trim_old(self, now_ms: int) -> int:
        before = now_ms - self._retention.run_days * _DAY_MS
        ids = self._database.call(
            "ZRANGEBYSCORE", self._keys.runs, "-inf", before, "LIMIT", 0, _STEP
        )
        return self._forget(ids)

    def _trim_grown(self) -> Trimmed:
        """Forget the oldest runs of jobs that have more than they may."""
        jobs = list(self._database.call("SPOP", self._keys.grown, _JOBS))
        excess = dict(zip(jobs, self._excess(jobs), strict=True))
        steps = {job_id: min(count, _STEP) for job_id, count in excess.items() if count > 0}
        now = dict(islice(steps.items(), _MOST // _STEP))
        forgotten = self._forget(self._oldest(now))
        # Those that have still more are looked at again in a later step.
        left = [job_id for job_id in steps if excess[job_id] > now.get(job_id, 0)]
        if left:
            self._database.call("SADD", self._keys.grown, *left)
        return Trimmed(runs=forgotten, has_more=bool(left) or len(jobs) == _JOBS)

    def _excess(self, jobs: Sequence[str]) -> list[int]:
        """How many runs each of the jobs has beyond what is kept; less than none: still room."""
        counts = self._database.call_many(
            [("ZLEXCOUNT", self._keys.job_runs, *_range(job_id)) for job_id in jobs]
        )
        return [int(count) - self._retention.runs_per_job for count in counts]

    def _oldest(self, steps: Mapping[str, int]) -> list[str]:
        """The ids of so many oldest runs of each job."""
        answers = self._database.call_many(
            [
                ("ZRANGEBYLEX", self._keys.job_runs, *_range(job_id), "LIMIT", 0, count)
                for job_id, count in steps.items()
            ]
        )
        return [run_id for ids in answers for run_id in ids]

    def _forget(self, ids: Sequence[str]) -> int:
        calls = [self._call(ids[start : start + _STEP]) for start in range(0, len(ids), _STEP)]
        forgotten = 0
        for answer in self._database.run_many("forget", calls):
            if isinstance(answer, StoreError):
                raise answer
            forgotten += int(answer)
        return forgotten

    def _call(self, ids: Sequence[str]) -> ScriptCall:
        keys = [self._keys.runs, self._keys.job_runs]
        for run_id in ids:
            keys += (self._keys.run(run_id), self._keys.output(run_id), self._keys.stderr(run_id))
        return ScriptCall(keys=keys, args=list(ids))


def _range(job_id: str) -> tuple[str, str]:
    """The bounds of a job's runs in the index of runs by job."""
    return f"[{job_id}-", f"[{job_id}."
