"""This package in the harness of its peers: its real beat and its worker with stubbed work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from bench.bed import Bed, celery_process, fresh_bed, run_times, store_jobs
from bench.idle import idle_steps
from bench.peers.beats import WARM_UP, Stage, measure_beat
from bench.peers.measure import Times
from hermes_celery.core.run import run_id_of
from hermes_celery.store import Runs
from hermes_celery.store.keys import Keys

_OVERDUE_MS = 1_000
_A_DAY_MS = 86_400_000


class _OurStage:
    """A fresh server and home; the records show the progress of the runs."""

    def __init__(self, bed: Bed) -> None:
        self.url = bed.url
        self.queue = Keys().default_queue
        self._bed = bed
        self._runs = Runs(bed.database)
        self._followed: list[str] = []

    def store(self, count: int, *, due: int) -> None:
        """Store hourly script jobs."""
        due_ms = due * 1000
        store_jobs(self._bed, [self._bed.database.now_ms() - _OVERDUE_MS] * WARM_UP)
        ids = store_jobs(self._bed, [due_ms] * count)
        self._followed = [run_id_of(job_id, due_ms) for job_id in ids]

    def beat(self) -> AbstractContextManager[object]:
        """Run `celery -A hermes_celery beat`."""
        return celery_process(self._bed, "hermes_celery", "beat")

    def worker(self) -> AbstractContextManager[object]:
        """Run the worker with stubbed work, which starts no script process."""
        return celery_process(self._bed, "bench.stub:app", "worker")

    def ended(self) -> int:
        """Return the number of runs that are neither queued nor running.

        The records are counted first, so a run added in between makes the result too small.
        """
        recorded = int(self._bed.database.call("ZCARD", self._bed.database.keys.runs))
        return recorded - sum(self._runs.counts().values())

    def run_instants(self) -> tuple[float, float]:
        """Return the times in the records. Raises BenchError unless all runs succeeded."""
        rows = run_times(self._bed, self._followed)
        first_ms = min(row["started_ms"] for row in rows)
        return first_ms / 1000, max(row["finished_ms"] for row in rows) / 1000


class Ours:
    """Measures hermes-celery."""

    name = "hermes-celery"
    idles = "0.25 s"

    def measure(self, count: int, *, limit_seconds: float) -> Times:
        """Make `count` no-op jobs due at once and measure both spans, each up to the limit."""
        return measure_beat(self, count, limit_seconds=limit_seconds)

    def idle_ticks(self, stored: int) -> list[float]:
        """Return the milliseconds of single steps of a leading beat, without its sleep."""
        with fresh_bed() as bed:
            far_ms = bed.database.now_ms() + _A_DAY_MS
            store_jobs(bed, [far_ms] * stored)
            return idle_steps(bed)

    @contextmanager
    def open(self) -> Iterator[Stage]:
        """Yield a stage on a fresh server and home."""
        with fresh_bed() as bed:
            yield _OurStage(bed)
