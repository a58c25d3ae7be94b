"""Systems of a beat process, a Redis and a Celery worker: ours and the Celery peers, one harness.

For each span a fresh Valkey (unix socket, AOF synced every second) is filled with N entries that
are due at one instant to come and a few that are overdue; the beat is started as its user would;
when it has dispatched the overdue ones it is known to be up, and everybody waits for the instant.
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

#: Enough for every pool process to have run one.
WARM_UP = 20
#: A beat that is not up by then may be late for reasons of its start.
_READY_BEFORE_SECONDS = 0.3
_LEAD_FACTORS = (1, 2, 4)
_LOOK_AT_RUNS_SECONDS = 0.01
_SETTLE_SECONDS = 0.05


class Stage(Protocol):
    """A system on a fresh server, nothing of it started."""

    #: redis-py's URL of the broker, and the list that the messages go to.
    url: str
    queue: str

    def store(self, count: int, *, due: int) -> None:
        """Store `count` entries due at `due` (Unix seconds) and WARM_UP overdue ones."""

    def beat(self) -> AbstractContextManager[object]:
        """Its beat, as long as the block runs."""

    def worker(self) -> AbstractContextManager[object]:
        """A worker with four slots and work that does nothing."""

    def ended(self) -> int:
        """How many runs are over, those of the warm-up included."""

    def run_instants(self) -> tuple[float, float]:
        """The first start and the last end of the runs that were due together, Unix seconds."""


class Stages(Protocol):
    """Where fresh stages come from."""

    def open(self) -> AbstractContextManager[Stage]:
        """A fresh one."""


class _TooLate(BenchError):
    """The beat was not up before the instant that everything was due at."""


class _Follow(Protocol):
    """One of the two halves of a measurement."""

    def __call__(
        self, stage: Stage, count: int, *, lead_seconds: float, limit_seconds: float
    ) -> Span: ...


def measure_beat(stages: Stages, count: int, *, limit_seconds: float) -> Times:
    """Both spans, each on a stage of its own."""
    return Times(
        dispatched=_measure(_follow_messages, stages, count, limit_seconds=limit_seconds),
        runs=_measure(_follow_runs, stages, count, limit_seconds=limit_seconds),
    )


def _measure(follow: _Follow, stages: Stages, count: int, *, limit_seconds: float) -> Span:
    """One span; with more time to start when the beat was not up in time."""
    for factor in _LEAD_FACTORS:
        lead = factor * _lead_seconds(count)
        try:
            with stages.open() as stage:
                return follow(stage, count, lead_seconds=lead, limit_seconds=limit_seconds)
        except _TooLate:
            continue
    raise BenchError(f"with {count:,} entries its beat is not up within {lead:.0f} s")


def _lead_seconds(count: int) -> float:
    """How long storing and starting may take at first try."""
    return 5.0 + count / 400


def _follow_messages(
    stage: Stage, count: int, *, lead_seconds: float, limit_seconds: float
) -> Span:
    """From the instant until all messages are in the queue, with nobody consuming."""
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
    """From the instant until all runs are over."""
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
            look_seconds=_LOOK_AT_RUNS_SECONDS,
        )
        if span.last_ms is None:
            return span
        first, last = stage.run_instants()
    return msgspec.structs.replace(span, first_ms=(first - due) * 1000, last_ms=(last - due) * 1000)


def _wait_until_up(warmed_up: Callable[[], int], *, due: float) -> None:
    """Wait for the overdue entries: a beat that has dispatched them has loaded everything."""
    while warmed_up() < WARM_UP:
        if time.time() > due - _READY_BEFORE_SECONDS:
            raise _TooLate
        time.sleep(_LOOK_AT_RUNS_SECONDS)
