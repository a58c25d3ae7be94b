"""Measure delays: from a job's due time until its message is queued, and until its run starts.

    python -m bench.lag [--stored 1000000] [--json FILE]

A real beat runs with that many other jobs stored, on a Valkey of its own (unix socket, append-only
file synced every second). First a reader waits on the queue and records when each message arrived.
Then a worker with four slots and no-op work records when each run started. Both are measured with
jobs due at random instants, one at a time, and with many jobs due at one instant.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median, quantiles

import click
import msgspec
from rich.console import Console

from bench import options
from bench.bed import (
    Bed,
    celery_process,
    fresh_bed,
    run_times,
    store_jobs,
    wait_until_done,
)
from bench.server import BenchError, wait_until
from bench.show import new_table, stop_in_order
from hermes_celery.clock import ServerClock
from hermes_celery.core.run import due_ms_of, run_id_of

_WARM_UP_JOBS = 40
_DAY_MS = 86_400_000
#: Jobs per second at random instants.
_RATE = 25
#: Messages that the reader takes at once.
_AT_ONCE = 500


class _Headers(msgspec.Struct):
    id: str


class _Message(msgspec.Struct):
    """The part of a message that the reader needs."""

    headers: _Headers


_decode = msgspec.json.Decoder(_Message).decode


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of the delay in milliseconds, for one load."""

    until: str
    load: str
    stored: int
    jobs: int
    p50: float
    p99: float
    most: float


def measure(bed: Bed, *, stored: int, seconds: float, burst: int) -> Iterator[Lag]:
    """Yield the delays until queued and until started, for both loads."""
    with celery_process(bed, "hermes_celery", "beat"):
        _await_beat(bed)
        for load, due in _loads(bed, seconds=seconds, burst=burst):
            yield _lag("queued", load, stored, _queued(bed, due))
    # No worker performs those runs: forget them, so that nothing waits for or redelivers them.
    bed.database.call("DEL", bed.database.keys.queued)
    with (
        celery_process(bed, "hermes_celery", "beat"),
        celery_process(bed, "bench.stub:app", "worker"),
    ):
        _warm_up(bed)
        for load, due in _loads(bed, seconds=seconds, burst=burst):
            yield _lag("body starts", load, stored, _started(bed, due))


def _loads(bed: Bed, *, seconds: float, burst: int) -> Iterator[tuple[str, list[int]]]:
    """Yield the name and the due times (Unix ms) of each load, at least a second ahead."""
    # The seed makes the due times the same in every measurement.
    chance = random.Random(20_261_122)
    span = int(seconds * 1000)
    begin_ms = bed.database.now_ms() + 1_000
    spread = sorted(begin_ms + chance.randrange(span) for _ in range(int(seconds * _RATE)))
    yield f"{_RATE}/s at random", spread
    # Leave time for storing the jobs.
    at_ms = (bed.database.now_ms() + 3_000 + burst // 4) // 1000 * 1000
    yield f"{burst:,} at once", [at_ms] * burst


def _queued(bed: Bed, due: Sequence[int]) -> list[float]:
    """Return the delay of each message until a reader that blocks on the queue has it, in ms."""
    queue, client = bed.database.keys.default_queue, bed.database.client
    clock = ServerClock(bed.database.now_ms)
    store_jobs(bed, due)
    lags: list[float] = []
    while len(lags) < len(due):
        answer = client.brpop(queue, timeout=10)
        if answer is None:
            raise BenchError(f"only {len(lags)} of {len(due)} messages arrived")
        messages = [answer[1], *(client.rpop(queue, _AT_ONCE) or ())]
        now_ms = clock.now_ms() + 0.5
        lags += [now_ms - due_ms_of(_run_id(message)) for message in messages]
    return lags


def _run_id(message: str) -> str:
    return _decode(message).headers.id


def _started(bed: Bed, due: Sequence[int]) -> list[float]:
    """Return the delay of each run until its claim, in whole ms of the server's clock."""
    ids = store_jobs(bed, due)
    time.sleep(max(due[-1] - bed.database.now_ms(), 0) / 1000 + 0.5)
    wait_until_done(bed)
    rows = run_times(bed, [run_id_of(i, at) for i, at in zip(ids, due, strict=True)])
    return [float(row["started_ms"] - row["due_ms"]) for row in rows]


def _lag(until: str, load: str, stored: int, lags: Sequence[float]) -> Lag:
    p99 = quantiles(lags, n=100, method="inclusive")[98]
    return Lag(
        until=until,
        load=load,
        stored=stored,
        jobs=len(lags),
        p50=median(lags),
        p99=p99,
        most=max(lags),
    )


def _await_beat(bed: Bed) -> None:
    """Wait until the beat dispatches a job, then delete its message."""
    store_jobs(bed, [bed.database.now_ms()])
    queue = bed.database.keys.default_queue
    wait_until(lambda: bool(bed.database.call("LLEN", queue)), what="the beat dispatches a job")
    bed.database.call("DEL", queue)


def _warm_up(bed: Bed) -> None:
    """Wait until the beat has dispatched some jobs and the worker has finished them."""
    before = int(bed.database.call("ZCARD", bed.database.keys.runs))
    store_jobs(bed, [bed.database.now_ms()] * _WARM_UP_JOBS)
    wait_until(
        lambda: int(bed.database.call("ZCARD", bed.database.keys.runs)) >= before + _WARM_UP_JOBS,
        what="the beat dispatches a job",
    )
    wait_until_done(bed)


@click.command(help=__doc__)
@options.counts("--stored", default=(1_000, 100_000), what="Number of other stored jobs")
@click.option(
    "--seconds",
    type=float,
    default=20.0,
    show_default=True,
    help="Duration of the load at random instants.",
)
@click.option(
    "--burst", type=int, default=1_000, show_default=True, help="Number of jobs due at one instant."
)
@options.json_path
def main(stored: tuple[int, ...], seconds: float, burst: int, json_path: Path | None) -> None:
    """Measure and print a table."""
    stop_in_order()
    table = new_table("Delay in ms")
    for name in ("stored", "load", "until", "p50", "p99", "max"):
        table.add_column(name, justify="left" if name in ("load", "until") else "right")
    found = []
    for count in stored:
        with fresh_bed() as bed:
            far_ms = bed.database.now_ms() + _DAY_MS
            store_jobs(bed, range(far_ms, far_ms + count))
            found += list(measure(bed, stored=count, seconds=seconds, burst=burst))
    for lag in found:
        figures = (f"{value:,.1f}" for value in (lag.p50, lag.p99, lag.most))
        table.add_row(f"{lag.stored:,}", lag.load, lag.until, *figures)
    Console(width=110).print(table)
    options.write_figures(json_path, found)


if __name__ == "__main__":
    main()
