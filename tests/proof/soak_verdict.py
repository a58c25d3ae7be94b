"""Checks of the soak beyond the history: which jobs stopped, which output was not delivered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from hermes_celery.core.job import Job, JobState
from hermes_celery.core.run import Run, RunState
from hermes_celery.store import Database
from tests.proof.delivery_receipts import Receipt


def silently_stopped(
    jobs: Iterable[Job],
    runs: Sequence[Run],
    *,
    begun: datetime,
    until: datetime,
    cared_for: frozenset[str],
) -> Iterator[str]:
    """Yield the jobs that were due between two instants, did not run since, and give no reason.

    A reason is a state other than scheduled, or a skipped run. A run skipped because of another
    active run counts only if that one will end: `cared_for` are the runs that a worker, a queue or
    an earlier run will bring to an end.
    """
    for job in jobs:
        if job.state is not JobState.SCHEDULED:
            continue
        if not any(True for _ in job.spec.compiled().between(begun, until, limit=1)):
            continue
        mine = [run for run in runs if run.job_id == job.id]
        if not any(_is_answered(run, begun, cared_for, mine) for run in mine):
            yield f"{job.id} {job.name} has not run since {begun.isoformat()}"


def _is_answered(run: Run, begun: datetime, cared_for: frozenset[str], mine: Sequence[Run]) -> bool:
    """Return whether the run explains why its job did or did not run since `begun`."""
    if run.started_at is not None and run.started_at >= begun:
        return True
    if run.id in cared_for:
        return True
    if run.state is not RunState.SKIPPED or run.queued_at < begun:
        return False
    return not (run.reason or "").startswith("overlap") or any(r.id in cared_for for r in mine)


def cared_for(database: Database) -> frozenset[str]:
    """Return the runs that are queued, running or held back, and so will come to an end."""
    keys, client = database.keys, database.client
    found = set(client.zrange(keys.queued, 0, -1)) | set(client.zrange(keys.heartbeats, 0, -1))
    for key in client.scan_iter(keys.held("*").replace("{", "[{]"), count=500):
        if client.type(key) == "list":
            found |= {entry.partition("\0")[0] for entry in client.lrange(key, 0, -1)}
    return frozenset(str(run_id) for run_id in found)


def delivery_counts(
    runs: Iterable[Run], receipts: Iterable[Receipt], delivering: frozenset[str]
) -> tuple[list[str], int]:
    """Return the undelivered runs, and how many messages came more than once."""
    reached = Counter(receipt.run_id for receipt in receipts)
    wanted = [r.id for r in runs if r.job_id in delivering and r.state is RunState.SUCCEEDED]
    return [i for i in wanted if not reached[i]], sum(max(reached[i] - 1, 0) for i in wanted)
