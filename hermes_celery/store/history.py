"""Remove old records in small steps: runs by number and age, completed jobs by age.

Scripts record which jobs got new runs; only those are counted, so nothing here scans all jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from hermes_celery.core.job import JobState
from hermes_celery.errors import (
    Conflict,
    JobNotFound,
    RecordBroken,
    StoreError,
    StoreUnavailable,
)
from hermes_celery.guards.on_broken import OnBroken, ignored
from hermes_celery.store.database import Database, ScriptCall
from hermes_celery.store.jobs import Jobs

_DAY_MS = 86_400_000
#: Runs that one script call removes, and runs of one job that one step removes: far below a
#: millisecond of the server's time.
_STEP = 50
#: Jobs whose runs one step counts: 10,000 a second while a backlog remains.
_JOBS = 500
#: Runs that one step removes: this blocks the beat for about 3 ms. 20 steps a second remove 5,000
#: runs a second; at a higher rate of new runs, history grows until the rate falls.
_MOST = 250


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """The amount of history to keep."""

    runs_per_job: int = 100
    run_days: int = 30
    completed_job_days: int = 7


class Trimmed(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one trimming step."""

    runs: int
    #: Whether an immediate further step would find more.
    has_more: bool


class History:
    """Removes old runs and completed jobs of one namespace."""

    def __init__(
        self,
        database: Database,
        *,
        retention: Retention,
        on_broken: OnBroken = ignored,
    ) -> None:
        """Set what is kept; `on_broken` is called for each record that cannot be removed."""
        self._on_broken = on_broken
        self._database = database
        self._keys = database.keys
        self._retention = retention

    def trim(self, now_ms: int) -> Trimmed:
        """Take one small step: remove runs beyond the kept number or age.

        Whatever the backlog, a step takes five round trips and removes at most some hundred runs.
        """
        old = self._trim_old(now_ms)
        grown = self._trim_grown()
        return Trimmed(runs=old + grown.runs, has_more=old == _STEP or grown.has_more)

    def remove_completed(self, jobs: Jobs, now_ms: int) -> int:
        """Remove jobs that were completed long ago; return their number.

        A job that a configuration manages stays: it would be declared again, and would run again.
        """
        before = now_ms - self._retention.completed_job_days * _DAY_MS
        ids = self._database.call(
            "ZRANGEBYSCORE", self._keys.completed, "-inf", before, "LIMIT", 0, _STEP
        )
        removed = 0
        for job_id in ids:
            try:
                job = jobs.get(job_id)
                if job.state is JobState.COMPLETED and job.spec.managed_by is None:
                    jobs.remove(job)
                    removed += 1
            except Conflict:
                continue
            except StoreUnavailable:
                raise
            except (JobNotFound, StoreError):
                pass  # gone, or unreadable: people may still inspect and remove it
            self._database.call("ZREM", self._keys.completed, job_id)
        return removed

    def _trim_old(self, now_ms: int) -> int:
        before = now_ms - self._retention.run_days * _DAY_MS
        ids = self._database.call(
            "ZRANGEBYSCORE", self._keys.runs, "-inf", before, "LIMIT", 0, _STEP
        )
        return self._forget(ids)

    def _trim_grown(self) -> Trimmed:
        """Remove the oldest runs of jobs that have more than the kept number."""
        jobs = list(self._database.call("SPOP", self._keys.grown, _JOBS))
        try:
            return self._trim_jobs(jobs)
        except StoreError:
            # A later step counts these jobs again.
            if jobs:
                self._database.call("SADD", self._keys.grown, *jobs)
            raise

    def _trim_jobs(self, jobs: Sequence[str]) -> Trimmed:
        excess = dict(zip(jobs, self._excess(jobs), strict=True))
        steps = {job_id: min(count, _STEP) for job_id, count in excess.items() if count > 0}
        now = dict(islice(steps.items(), _MOST // _STEP))
        forgotten = self._forget(self._oldest(now))
        # Jobs with further excess runs are taken up again in a later step.
        left = [job_id for job_id in steps if excess[job_id] > now.get(job_id, 0)]
        if left:
            self._database.call("SADD", self._keys.grown, *left)
        return Trimmed(runs=forgotten, has_more=bool(left) or len(jobs) == _JOBS)

    def _excess(self, jobs: Sequence[str]) -> list[int]:
        """Return for each job its number of runs beyond the kept number; negative when below it."""
        counts = self._database.call_many(
            [("ZLEXCOUNT", self._keys.job_runs, *_range(job_id)) for job_id in jobs]
        )
        return [int(count) - self._retention.runs_per_job for count in _checked(counts)]

    def _oldest(self, steps: Mapping[str, int]) -> list[str]:
        """Return the ids of the oldest runs; `steps` maps a job id to how many."""
        answers = self._database.call_many(
            [
                ("ZRANGEBYLEX", self._keys.job_runs, *_range(job_id), "LIMIT", 0, count)
                for job_id, count in steps.items()
            ]
        )
        return [run_id for ids in _checked(answers) for run_id in ids]

    def _forget(self, ids: Sequence[str]) -> int:
        """Remove runs and return their number; retry a failed call run by run."""
        calls = [self._call(ids[start : start + _STEP]) for start in range(0, len(ids), _STEP)]
        forgotten, failed = self._run_forget(calls)
        if not failed:
            return forgotten
        singles = [self._call([str(run_id)]) for call in failed for run_id in call.args]
        more, left = self._run_forget(singles)
        for call in left:
            self._drop_from_indexes(str(call.args[0]))
        return forgotten + more

    def _run_forget(self, calls: Sequence[ScriptCall]) -> tuple[int, list[ScriptCall]]:
        """Return how many runs were removed, and the calls that failed."""
        forgotten, failed = 0, []
        for call, answer in zip(calls, self._database.run_many("forget", calls), strict=True):
            if isinstance(answer, StoreUnavailable):
                raise answer
            if isinstance(answer, int):
                forgotten += answer
            else:
                failed.append(call)
        return forgotten, failed

    def _drop_from_indexes(self, run_id: str) -> None:
        """Remove a broken run from the indexes, so that trimming does not meet it again."""
        keys, key = self._keys, self._keys.run(run_id)
        if self._database.call("TYPE", key) in ("hash", "none"):
            self._on_broken("", key, "cannot be removed from the history")
            return
        self._on_broken("", key, "is not a run's record; it was removed from the list of runs")
        for index in (keys.runs, keys.job_runs):
            try:
                self._database.call("ZREM", index, run_id)
            except RecordBroken as error:
                self._on_broken("", error.key, error.what)

    def _call(self, ids: Sequence[str]) -> ScriptCall:
        keys = [self._keys.runs, self._keys.job_runs]
        for run_id in ids:
            keys += (self._keys.run(run_id), self._keys.output(run_id), self._keys.stderr(run_id))
        return ScriptCall(keys=keys, args=list(ids))


def _checked(answers: Sequence[Any]) -> Sequence[Any]:
    """Return the answers. Raises the first StoreError among them."""
    for answer in answers:
        if isinstance(answer, StoreError):
            raise answer
    return answers


def _range(job_id: str) -> tuple[str, str]:
    """Return the bounds of a job's runs in the index of runs by job."""
    return f"[{job_id}-", f"[{job_id}."
