"""Measure the runs per second that one beat dispatches, beside upper bounds of server and Celery.

    python -m bench.sustained [--jobs 100000] [--json FILE]

That many jobs are due when a real beat starts, and no worker consumes. The time runs from the first
message to the last one, by the length of the queue. It includes reading, planning, records, indexes
and messages; nothing is planned ahead. This is measured with the append-only file synced every
second and with every write synced. On the same server, in the same command, the upper bounds are
measured: `apply_async` in a loop, the same messages in pipelined LPUSH commands, and LPUSH by
`redis-benchmark`, if that is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from statistics import median

import click
import msgspec
from rich.console import Console

from bench import options
from bench.bed import Bed, celery_process, fresh_bed, store_jobs
from bench.server import wait_until
from bench.show import new_table, stop_in_order
from bench.whole_path import apply_async, make_bare_app, push, take_messages

_FSYNC = ("everysec", "always")
_OVERDUE_MS = 1_000
_BARE = 2_000
_SECONDS = 600.0


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """Messages per second that reach the queue."""

    who: str
    fsync: str
    per_second: float


def measure(fsync: str, *, jobs: int, rounds: int) -> list[Rate]:
    """Measure all rates in turns on one server and return their medians."""
    found: dict[str, list[float]] = {}
    with fresh_bed(fsync=fsync) as bed:
        for _ in range(rounds):
            found.setdefault("hermes-celery, one beat", []).append(_ours(bed, jobs))
            for who, rate in _bare(bed).items():
                found.setdefault(who, []).append(rate)
    return [Rate(who=who, fsync=fsync, per_second=median(rates)) for who, rates in found.items()]


def _ours(bed: Bed, jobs: int) -> float:
    queue = bed.database.keys.default_queue
    bed.database.call("DEL", queue)
    store_jobs(bed, [bed.database.now_ms() - _OVERDUE_MS] * jobs)

    def length() -> int:
        return int(bed.database.call("LLEN", queue))

    with celery_process(bed, "hermes_celery", "beat"):
        wait_until(lambda: length() > 0, what="the beat dispatches a job")
        began, first = time.perf_counter(), length()
        wait_until(
            lambda: length() == jobs, what="all jobs are dispatched", seconds=_SECONDS, poll=0.01
        )
        took = time.perf_counter() - began
    bed.database.call("DEL", queue)
    return (jobs - first) / took


def _bare(bed: Bed) -> dict[str, float]:
    """Return the rates of simpler ways to push messages."""
    app = make_bare_app(bed.url)
    loop_ms = apply_async(bed, app, _BARE)
    messages = take_messages(bed)
    rates = {
        "apply_async in a loop": _BARE / loop_ms * 1000,
        "LPUSH of the messages, pipelined": len(messages) / push(bed, messages) * 1000,
    }
    take_messages(bed)
    benchmark = shutil.which("redis-benchmark")
    if benchmark is not None:
        rates["redis-benchmark, LPUSH of 1,200 bytes"] = _benchmark(benchmark, bed)
    return rates


def _benchmark(program: str, bed: Bed) -> float:
    """Return redis-benchmark's LPUSH rate with one client and pipelines of 100 commands."""
    command = [program, "-s", bed.url.removeprefix("unix://"), "-c", "1", "-P", "100", "-d", "1200"]
    command += ["-n", "50000", "-t", "lpush", "--csv"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    bed.database.call("DEL", "mylist")
    return float(printed.strip().splitlines()[-1].split(",")[1].strip('"'))


@click.command(help=__doc__)
@click.option(
    "--jobs",
    type=click.IntRange(100),
    default=50_000,
    show_default=True,
    help="Number of due jobs.",
)
@options.rounds
@options.json_path
def main(jobs: int, rounds: int, json_path: Path | None) -> None:
    """Measure and print a table."""
    stop_in_order()
    found = [rate for fsync in _FSYNC for rate in measure(fsync, jobs=jobs, rounds=rounds)]
    table = new_table(f"{jobs:,} jobs due, no consumer: messages per second, median")
    for name in ("append-only file", "who", "per second", "ours / this"):
        table.add_column(name, justify="left" if name in ("append-only file", "who") else "right")
    for fsync in _FSYNC:
        rates = [rate for rate in found if rate.fsync == fsync]
        for rate in rates:
            ratio = rates[0].per_second / rate.per_second
            table.add_row(fsync, rate.who, f"{rate.per_second:,.0f}", f"{ratio:.2f}")
        table.add_section()
    Console(width=110).print(table)
    options.write_figures(json_path, found)


if __name__ == "__main__":
    main()
