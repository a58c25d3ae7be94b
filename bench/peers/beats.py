"""Measures systems with a beat, a Redis server and a Celery worker: this package and its peers.

For each span a fresh Valkey (unix socket, append-only file synced every second) is filled with N
entries that are due at one future instant, and a few that are overdue. The beat is started as a
user would start it. It is up when it has dispatched the overdue entries; then the harness waits for
the instant.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

import msgspec
import redis

from bench.peers.measure import Span, Times, watch
from bench.server import BenchError

#: Enough that every pool process has run one.
WARM_UP = 20
#: A beat must be up this long before the instant; otherwise its start could make it late.
_READY_BEFORE_SECONDS = 0.3
_LEAD_FACTORS = (1, 2, 4)
_POLL_RUNS_SECONDS = 0.01
_SETTLE_SECONDS = 0.05


class Stage(Protocol):
    """A system on a fresh server, not yet started."""

    #: The broker's URL for redis-py, and the list that receives the messages.
    url: str
    queue: str

    def store(self, count: int, *, due: int) -> None:
        """Store `count` entries due at `due` (Unix seconds) and WARM_UP overdue ones."""

    def beat(self) -> AbstractContextManager[object]:
        """Run the system's beat as long as the block."""

    def worker(self) -> AbstractContextManager[object]:
        """Run a worker with four slots and no-op work as long as the block."""

    def ended(self) -> int:
        """Return the number of finished runs, including those of the warm-up."""

    def run_instants(self) -> tuple[float, float]:
        """Return the first start and last end of the runs due together, Unix seconds."""


class Stages(Protocol):
    """Makes fresh stages."""

    def open(self) -> AbstractContextManager[Stage]:
        """Yield a fresh stage."""


class _TooLate(BenchError):
    """The beat was not up before the instant at which the entries were due."""


class _Follow(Protocol):
    """Measures one of the two spans."""

    def __call__(
        self, stage: Stage, count: int, *, lead_seconds: float, limit_seconds: float
    ) -> Span: ...


def measure_beat(stages: Stages, count: int, *, limit_seconds: float) -> Times:
    """Measure both spans, each on a stage of its own."""
    return Times(
        dispatched=_measure(_follow_messages, stages, count, limit_seconds=limit_seconds),
        runs=_measure(_follow_runs, stages, count, limit_seconds=limit_seconds),
    )


def _measure(follow: _Follow, stages: Stages, count: int, *, limit_seconds: float) -> Span:
    """Measure one span; if the beat was not up in time, try again with a longer start."""
    for factor in _LEAD_FACTORS:
        lead = factor * _lead_seconds(count)
        try:
            with stages.open() as stage:
                return follow(stage, count, lead_seconds=lead, limit_seconds=limit_seconds)
        except _TooLate:
            continue
    raise BenchError(f"with {count:,} entries the beat was not up within {lead:.0f} s")


def _lead_seconds(count: int) -> float:
    """Return the seconds for storing and starting in the first attempt."""
    return 5.0 + count / 400


def _follow_messages(
    stage: Stage, count: int, *, lead_seconds: float, limit_seconds: float
) -> Span:
    """Measure from the instant until all messages are queued, without a consumer."""
    due = math.ceil(time.time() + lead_seconds)
    stage.store(count, due=due)
    with redis.Redis.from_url(stage.url) as server, stage.beat():

        def queued() -> int:
            return int(server.llen(stage.queue))

        _wait_until_up(queued, due=due)
        server.delete(stage.queue)
        time.sleep(max(due - time.time(), 0))
        span = watch(queued, wanted=count, since=due, limit_seconds=limit_seconds)
        time.sleep(_SETTLE_SECONDS)
        if queued() > count:
            raise BenchError(f"{queued()} messages for {count} jobs")
    return span


def _follow_runs(stage: Stage, count: int, *, lead_seconds: float, limit_seconds: float) -> Span:
    """Measure from the instant until all runs have finished."""
    with ExitStack() as stack:
        stack.enter_context(stage.worker())
        due = math.ceil(time.time() + lead_seconds)
        stage.store(count, due=due)
        stack.enter_context(stage.beat())
        _wait_until_up(stage.ended, due=due)
        time.sleep(max(due - time.time(), 0))
        span = watch(
            lambda: stage.ended() - WARM_UP,
            wanted=count,
            since=due,
            limit_seconds=limit_seconds,
            poll_seconds=_POLL_RUNS_SECONDS,
        )
        if span.last_ms is None:
            return span
        first, last = stage.run_instants()
    return msgspec.structs.replace(span, first_ms=(first - due) * 1000, last_ms=(last - due) * 1000)


def _wait_until_up(warmed_up: Callable[[], int], *, due: float) -> None:
    """Wait for the overdue entries; a beat that dispatched them has loaded all entries."""
    while warmed_up() < WARM_UP:
        if time.time() > due - _READY_BEFORE_SECONDS:
            raise _TooLate
        time.sleep(_POLL_RUNS_SECONDS)
