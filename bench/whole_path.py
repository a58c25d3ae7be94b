"""Measure the whole path from due jobs to finished runs, beside the same work done bare.

    python -m bench.whole_path

Each of the four parts has a fresh Valkey (unix socket, append-only file synced every second):

- `path`: N due jobs to their finished runs
- `idle`: the cost of a beat with nothing due
- `limit`: the same work done bare (plain pushes, one Lua loop, plain Celery)
- `start`: the start of a worker

All parts run one after the other on one machine: compare ratios, since absolute times depend on the
machine. The delays of a beat and a worker are measured by `bench.lag`.

Times of runs come from their records, in whole milliseconds of the server's clock.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from statistics import median
from typing import Any, Protocol

import click
import msgspec
from celery import Celery
from rich.console import Console

from bench import options
from bench.bed import (
    DONE_SECONDS,
    SLOTS,
    Bed,
    celery_process,
    fresh_bed,
    run_times,
    store_jobs,
    wait_until_done,
)
from bench.idle import idle_steps
from bench.server import BenchError, wait_until
from bench.show import new_table, spread, stop_in_order
from hermes_celery.celery_app.app import broker_url
from hermes_celery.clock import ServerClock
from hermes_celery.core.job import new_job_id
from hermes_celery.core.run import run_id_of
from hermes_celery.scheduling.beat import owner_name
from hermes_celery.scheduling.lease import Lease
from hermes_celery.scheduling.tick import Ticker
from hermes_celery.settings import read_settings
from hermes_celery.store import DueIndex
from hermes_celery.wiring.own_app import make_app
from tests.support import messages_of

#: Enough that every pool process has made its runner.
_WARM_UP_JOBS = 40
#: More than the error of any clock here, so that all jobs are due at the first tick.
_OVERDUE_MS = 1_000
_IDLE_SECONDS = 5.0
_PIPELINE = 200
_BARE_QUEUE = "bare"
_BARE_TASK = "bench.noop"

BARE_LUA = """
-- KEYS  1 queue   2 due index   3 all runs    ARGV  for each job: id, run id, instant, message
for i = 1, #ARGV, 4 do
  redis.call('HSET', 'bare:run:' .. ARGV[i + 1], 'job_id', ARGV[i], 'due_ms', ARGV[i + 2],
    'queued_ms', ARGV[i + 2], 'state', 'queued', 'attempt', '1')
  redis.call('HSET', 'bare:job:' .. ARGV[i], 'next_ms', ARGV[i + 2])
  redis.call('ZADD', KEYS[2], ARGV[i + 2], ARGV[i])
  redis.call('ZADD', KEYS[3], ARGV[i + 2], ARGV[i + 1])
  redis.call('LPUSH', KEYS[1], ARGV[i + 3])
end
"""


# --- part 1: N due jobs, from the tick to the last finished run -------------------------------


class PathTimes(msgspec.Struct, frozen=True, kw_only=True):
    """The times of one round, in milliseconds since its first tick began."""

    dispatched_ms: float
    first_start_ms: float
    all_done_ms: float


class Contender(Protocol):
    """A running system that can be given N due jobs."""

    name: str

    def measure(self, count: int) -> PathTimes:
        """Make `count` no-op jobs due at once and wait for their runs to finish."""


class Leader:
    """Ticks in a loop under a real lease, like `Beat.step` but without the sleep."""

    def __init__(self, bed: Bed) -> None:
        self._clock = ServerClock(bed.database.now_ms)
        self._lease = Lease(bed.database, owner=owner_name(), clock=self._clock)
        self._due_index = DueIndex(bed.database)
        self._messages = messages_of(make_app(bed.settings))

    def dispatch_all(self) -> int:
        """Tick until nothing is due; return the number of dispatched runs."""
        dispatched = 0
        while True:
            if self._lease.hold() is None:
                raise BenchError("another beat holds the lease")
            report = Ticker(self._due_index, self._messages).tick(
                token=self._lease.require(), now_ms=self._clock.now_ms()
            )
            dispatched += report.dispatched
            if report.next_due_ms is None or report.next_due_ms > report.now_ms:
                return dispatched
            if not report.dispatched:
                raise BenchError(f"the tick dispatched no due job: {report}")


class HermesCelery:
    """The package: one leader in this process and one worker with four slots."""

    def __init__(self, name: str, bed: Bed) -> None:
        self.name = name
        self._bed = bed
        self._leader = Leader(bed)

    def measure(self, count: int) -> PathTimes:
        """Make `count` no-op jobs due at once and wait for their runs to finish."""
        due_ms = self._bed.database.now_ms() - _OVERDUE_MS
        ids = store_jobs(self._bed, [due_ms] * count)
        # Collect the garbage of storing the jobs, so that it does not count for the tick.
        gc.collect()
        began_ms = _server_ms(self._bed)
        dispatched_ms = self._dispatch(count)
        wait_until_done(self._bed)
        rows = run_times(self._bed, [run_id_of(job_id, due_ms) for job_id in ids])
        return PathTimes(
            dispatched_ms=dispatched_ms,
            first_start_ms=min(row["started_ms"] for row in rows) - began_ms,
            all_done_ms=max(row["finished_ms"] for row in rows) - began_ms,
        )

    def dispatch_only(self, count: int) -> float:
        """Return the milliseconds to dispatch `count` due jobs, without waiting for their runs."""
        store_jobs(self._bed, [self._bed.database.now_ms() - _OVERDUE_MS] * count)
        return self._dispatch(count)

    def _dispatch(self, count: int) -> float:
        began = time.perf_counter()
        dispatched = self._leader.dispatch_all()
        took_ms = (time.perf_counter() - began) * 1000
        if dispatched != count:
            raise BenchError(f"only {dispatched} of {count} jobs were dispatched")
        return took_ms


def _server_ms(bed: Bed) -> float:
    seconds, microseconds = bed.database.call("TIME")
    return int(seconds) * 1000 + int(microseconds) / 1000


@contextmanager
def hermes_celery(*, stubbed: bool) -> Iterator[HermesCelery]:
    """Yield the package with a warm worker; with `stubbed`, runs start no script process."""
    app = "bench.stub:app" if stubbed else "hermes_celery"
    name = "run path, work stubbed" if stubbed else "script jobs (bash, echo)"
    with fresh_bed() as bed, celery_process(bed, app, "worker"):
        contender = HermesCelery(name, bed)
        contender.measure(_WARM_UP_JOBS)
        yield contender


CONTENDERS: Sequence[Callable[[], AbstractContextManager[Contender]]] = (
    lambda: hermes_celery(stubbed=True),
    lambda: hermes_celery(stubbed=False),
)


def part_path(console: Console, *, counts: Sequence[int], rounds: int) -> None:
    """Measure and print the times of N due jobs."""
    table = new_table("Due jobs to finished runs: ms since the tick began, median (min..max)")
    for name in ("system", "jobs", "all dispatched", "first start", "all done"):
        table.add_column(name, justify="left" if name == "system" else "right")
    for start in CONTENDERS:
        with start() as contender:
            for count in counts:
                times = [contender.measure(count) for _ in range(rounds)]
                table.add_row(
                    contender.name,
                    f"{count:,}",
                    spread([t.dispatched_ms for t in times]),
                    spread([t.first_start_ms for t in times]),
                    spread([t.all_done_ms for t in times]),
                )
    console.print(table)


# --- part 2: an idle beat -----------------------------------------------------------------------


def part_idle(console: Console, *, stored: Sequence[int]) -> None:
    """Measure and print the cost of an idle beat."""
    table = new_table("An idle beat, one step every 250 ms")
    for name in ("stored jobs", "one step, ms", "Redis commands/s", "Redis µs/s"):
        table.add_column(name, justify="right")
    with fresh_bed() as bed:
        present = 0
        for count in sorted(stored):
            far_ms = bed.database.now_ms() + 86_400_000
            store_jobs(bed, range(far_ms, far_ms + count - present))
            present = count
            steps = idle_steps(bed)
            commands, busy_us = _idle_commands(bed)
            table.add_row(
                f"{count:,}", spread(steps, digits=2), f"{commands:.1f}", f"{busy_us:.0f}"
            )
    console.print(table)


def _idle_commands(bed: Bed) -> tuple[float, float]:
    """Return the Redis commands and server microseconds per second of a real beat.

    Both include commands called by scripts, so the microseconds are an upper bound.
    """
    with celery_process(bed, "hermes_celery", "beat"):
        wait_until(
            lambda: bool(bed.database.call("EXISTS", bed.database.keys.lease)), what="a beat leads"
        )
        # Rescue starts five seconds after a beat took over.
        time.sleep(6.0)
        before = _command_stats(bed)
        time.sleep(_IDLE_SECONDS)
        after = _command_stats(bed)
    calls = sum(after[name][0] - before.get(name, (0, 0))[0] for name in after)
    micros = sum(after[name][1] - before.get(name, (0, 0))[1] for name in after)
    return calls / _IDLE_SECONDS, micros / _IDLE_SECONDS


def _command_stats(bed: Bed) -> dict[str, tuple[float, float]]:
    stats: Mapping[str, Any] = bed.database.call("INFO", "commandstats")
    return {
        name: (float(row["calls"]), float(row["usec"]))
        for name, row in stats.items()
        if name != "cmdstat_info"
    }


# --- part 3: the same work done bare ------------------------------------------------------------


def part_limit(console: Console, *, count: int, rounds: int) -> None:
    """Measure and print the same work done bare, and the package's time as a multiple of it."""
    with fresh_bed() as bed:
        app = make_bare_app(bed.url)
        one_by_one = [apply_async(bed, app, count) for _ in range(rounds)]
        messages = take_messages(bed)[:count]
        pushes = [push(bed, messages) for _ in range(rounds)]
        loops = [_lua_loop(bed, messages) for _ in range(rounds)]
        ours = HermesCelery("", bed)
        ours.dispatch_only(_WARM_UP_JOBS)
        ticks = [ours.dispatch_only(count) for _ in range(rounds)]
    _print_ratios(
        console,
        f"Dispatching {count:,} jobs without a consumer, ms",
        {
            "bare: LPUSH of the messages, pipelined": pushes,
            "bare: Lua loop, HSET x2 ZADD x2 LPUSH": loops,
            "bare: apply_async, one by one": one_by_one,
        },
        ours=ticks,
        count=count,
    )
    with hermes_celery(stubbed=True) as contender:
        done = [contender.measure(count).all_done_ms for _ in range(rounds)]
    _print_ratios(
        console,
        f"Consuming {count:,} no-op messages with {SLOTS} slots, ms",
        {
            "bare: Celery worker, its defaults": _consume(messages, "bare_app", rounds),
            "bare: Celery worker, our settings": _consume(messages, "bare_app_as_ours", rounds),
        },
        ours=done,
        count=count,
    )


def _print_ratios(
    console: Console,
    title: str,
    bare: Mapping[str, list[float]],
    *,
    ours: list[float],
    count: int,
) -> None:
    table = new_table(title)
    for name in ("what", "median (min..max)", "µs per job", "ours / this"):
        table.add_column(name, justify="left" if name == "what" else "right")
    each = 1000 / count
    for name, times in {**bare, "ours": ours}.items():
        ratio = median(ours) / median(times)
        table.add_row(name, spread(times), f"{median(times) * each:.0f}", f"{ratio:.2f}")
    console.print(table)


def apply_async(bed: Bed, app: Celery, count: int) -> float:
    """Return the milliseconds to publish `count` messages in a loop."""
    task = app.tasks[_BARE_TASK]
    bed.database.call("DEL", _BARE_QUEUE)
    task.apply_async(args=("warm up",))
    bed.database.call("DEL", _BARE_QUEUE)
    began = time.perf_counter()
    for number in range(count):
        task.apply_async(args=(f"run {number}",))
    return (time.perf_counter() - began) * 1000


def take_messages(bed: Bed) -> list[str]:
    """Return the messages on the bare queue and empty it."""
    messages: list[str] = bed.database.call("LRANGE", _BARE_QUEUE, 0, -1)
    bed.database.call("DEL", _BARE_QUEUE)
    return messages


def push(bed: Bed, messages: Sequence[str]) -> float:
    """Return the milliseconds to push messages in pipelined commands."""
    began = time.perf_counter()
    for start in range(0, len(messages), _PIPELINE):
        with bed.database.client.pipeline(transaction=False) as pipe:
            for message in messages[start : start + _PIPELINE]:
                pipe.lpush(_BARE_QUEUE, message)
            pipe.execute()
    return (time.perf_counter() - began) * 1000


def _lua_loop(bed: Bed, messages: Sequence[str]) -> float:
    script = bed.database.client.register_script(BARE_LUA)
    keys = [_BARE_QUEUE, "bare:due", "bare:runs"]
    now_ms = bed.database.now_ms()
    script(keys=keys, args=[])
    began = time.perf_counter()
    for start in range(0, len(messages), _PIPELINE):
        args: list[str | int] = []
        for message in messages[start : start + _PIPELINE]:
            job_id = new_job_id()
            args += (job_id, f"{job_id}-{now_ms}", now_ms, message)
        script(keys=keys, args=args)
    return (time.perf_counter() - began) * 1000


def _consume(messages: Sequence[str], app: str, rounds: int) -> list[float]:
    """Return the milliseconds from the first push until a bare worker took the last message."""
    with fresh_bed() as bed, celery_process(bed, f"bench.whole_path:{app}", "worker"):
        push(bed, messages[:_WARM_UP_JOBS])
        _wait_until_consumed(bed)
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            push(bed, messages)
            _wait_until_consumed(bed)
            times.append((time.perf_counter() - began) * 1000)
        return times


def _wait_until_consumed(bed: Bed) -> None:
    def consumed() -> bool:
        waiting = bed.database.call("LLEN", _BARE_QUEUE)
        return not waiting and not bed.database.call("HLEN", "unacked")

    wait_until(consumed, what="the bare worker has taken all messages", seconds=DONE_SECONDS)


# --- part 4: the start of a worker -------------------------------------------------------------


def part_start(console: Console, *, rounds: int) -> None:
    """Measure and print the time from starting a worker to its first finished task."""
    with fresh_bed() as bed:
        apply_async(bed, make_bare_app(bed.url), 1)
        message = take_messages(bed)
        bare = [_started_bare(bed, message) for _ in range(rounds)]
        ours = [_started_ours(bed) for _ in range(rounds)]
    table = new_table("From starting a worker of 4 slots to its first finished task, s")
    for name in ("what", "median (min..max)"):
        table.add_column(name, justify="left" if name == "what" else "right")
    table.add_row("bare: Celery worker, our settings", spread(bare, digits=2))
    table.add_row("ours, work stubbed", spread(ours, digits=2))
    console.print(table)


def _started_bare(bed: Bed, message: Sequence[str]) -> float:
    push(bed, message)
    began = time.perf_counter()
    with celery_process(bed, "bench.whole_path:bare_app_as_ours", "worker"):
        _wait_until_consumed(bed)
        return time.perf_counter() - began


def _started_ours(bed: Bed) -> float:
    HermesCelery("", bed).dispatch_only(1)
    began = time.perf_counter()
    with celery_process(bed, "bench.stub:app", "worker"):
        wait_until_done(bed)
        return time.perf_counter() - began


# --- the bare apps of this benchmark's workers --------------------------------------------------


def make_bare_app(url: str, *, as_ours: bool = False) -> Celery:
    """Return a plain Celery app with a no-op task; `as_ours` adds the package's worker settings."""
    app = Celery("bare", broker=broker_url(url), set_as_current=False)
    app.conf.update(
        task_ignore_result=True, worker_concurrency=SLOTS, task_default_queue=_BARE_QUEUE
    )
    if as_ours:
        app.conf.update(
            worker_prefetch_multiplier=1,
            worker_disable_prefetch=True,
            worker_send_task_events=True,
        )
    app.task(_nothing, name=_BARE_TASK)
    app.finalize()
    return app


def _nothing(run_id: str) -> str:
    return "succeeded"


def __getattr__(name: str) -> Celery:
    """Make a bare app when a worker imports it: `celery -A bench.whole_path:bare_app`."""
    if name in ("bare_app", "bare_app_as_ours"):
        url = read_settings().redis_url
        return make_bare_app(str(url), as_ours=name.endswith("ours"))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# --- the command --------------------------------------------------------------------------------


PARTS = ("path", "idle", "limit", "start")


@click.command()
@options.counts(
    "--jobs",
    default=(10, 100, 1000),
    what="Number of due jobs in `path` and, the largest, in `limit`",
)
@options.counts("--stored", default=(100, 10_000), what="Number of stored jobs in `idle`")
@options.rounds
@options.only("--only", PARTS, what="part")
def main(
    jobs: tuple[int, ...], stored: tuple[int, ...], rounds: int, only: tuple[str, ...]
) -> None:
    """Measure the whole path and print one table for each part."""
    stop_in_order()
    console = Console(width=110)
    parts: Mapping[str, Callable[[], None]] = {
        "path": lambda: part_path(console, counts=jobs, rounds=rounds),
        "idle": lambda: part_idle(console, stored=stored),
        "limit": lambda: part_limit(console, count=max(jobs), rounds=rounds),
        "start": lambda: part_start(console, rounds=rounds),
    }
    for name in only:
        try:
            parts[name]()
        except BenchError as error:
            raise click.ClickException(f"part {name!r}: {error}") from None


if __name__ == "__main__":
    main()
