"""Run beats, workers and user actions under random faults, then check every occurrence.

    python -m bench.soak --minutes 30

Each round takes two minutes and has a fresh Valkey. The faults are: kill -9 and SIGSTOP of beats
and workers; restarts of the server (in turns SIGTERM with the append-only file synced every second,
and kill -9 with every write synced); a proxy that cuts and swallows connections; a server that does
not answer; clocks that are minutes off; keys of a wrong type; malformed messages. Meanwhile jobs
are edited, paused and triggered twice. A run only writes a line to a file, so that many occurrences
fit into an hour. Some jobs deliver to an HTTP server of this process, some share a group, some have
a budget. After the faults comes a minute without any, in which every job that is due must run.

The command exits with 1 at the first faulty round and prints the fault.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import timedelta
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from tests.proof.soak import Plan, Result, run_round

_ROUND_SECONDS = 120.0
#: Length of the time without faults at the end, in which every due job must run.
_QUIET_SECONDS = 60.0
_FSYNC = ("everysec", "always")
_LEADERS = ("kill_leader", "freeze_leader")


@click.command()
@click.option("--minutes", type=float, default=5.0, show_default=True, help="Length of the soak.")
@click.option("--occurrences", type=int, help="Stop after this many occurrences.")
@click.option(
    "--jobs",
    type=int,
    default=300,
    show_default=True,
    help="Number of jobs; most are due every second.",
)
@click.option("--beats", type=int, default=3, show_default=True, help="Number of beats.")
@click.option(
    "--shards",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Number of shards of the due index.",
)
@click.option(
    "--consumers", type=int, default=3, show_default=True, help="Number of workers without Celery."
)
@click.option("--workers", type=int, default=1, show_default=True, help="Number of Celery workers.")
@click.option(
    "--fault-seconds",
    type=float,
    default=1.5,
    show_default=True,
    help="Mean time between two faults.",
)
@click.option("--takeover", is_flag=True, help="Only kill and freeze leaders.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the first round.")
def main(
    minutes: float,
    occurrences: int | None,
    jobs: int,
    beats: int,
    shards: int,
    consumers: int,
    workers: int,
    fault_seconds: float,
    takeover: bool,
    seed: int,
) -> None:
    """Cause faults, let the system settle, check it; repeat in rounds."""
    console = Console(width=110)
    deadline = time.monotonic() + minutes * 60
    results: list[Result] = []
    while not results or (time.monotonic() < deadline and _wants_more(results, occurrences)):
        plan = Plan(
            seconds=min(_ROUND_SECONDS, max(deadline - time.monotonic(), 10.0)),
            jobs=jobs,
            beats=beats,
            shards=shards,
            consumers=consumers,
            workers=workers,
            fault_seconds=fault_seconds,
            faults=_LEADERS if takeover else (),
            quiet_seconds=_QUIET_SECONDS,
            fsync=_FSYNC[len(results) % 2],
            seed=seed + len(results),
        )
        result = run_round(plan)
        results.append(result)
        console.print(_line(plan, result), highlight=False)
        if not result.valid:
            console.print(_summary(results))
            raise click.ClickException(f"seed {plan.seed}: {result.faults()}")
    console.print(_summary(results))


def _wants_more(results: list[Result], occurrences: int | None) -> bool:
    return occurrences is None or sum(r.verdict.targets for r in results) < occurrences


def _line(plan: Plan, result: Result) -> str:
    verdict, figures = result.verdict, result.figures
    return (
        f"seed {plan.seed}, {plan.fsync}: {verdict.targets:,} occurrences, "
        f"{verdict.started:,} started, {figures.kills} kills, {figures.freezes} freezes, "
        f"{figures.restarts} restarts: lost {len(verdict.lost)}, "
        f"started twice {len(verdict.doubled)}, silently stopped {len(result.stopped)}: "
        f"{'valid' if result.valid else 'BROKEN'}"
    )


def _summary(results: list[Result]) -> Table:
    table = Table(title=f"{len(results)} rounds", title_justify="left", show_header=False)
    for name, value in _figures(results).items():
        table.add_row(name, value)
    return table


def _figures(results: list[Result]) -> dict[str, str]:
    verdicts, figures = [r.verdict for r in results], [r.figures for r in results]
    told = sum((Counter(v.told) for v in verdicts), Counter[str]())
    takeovers = [t.total_seconds() for r in results for t in r.takeovers]
    late = max((v.max_lateness for v in verdicts), default=timedelta(0))
    return {
        "occurrences": f"{sum(v.targets for v in verdicts):,}",
        "runs started": f"{sum(v.started for v in verdicts):,}",
        "lost": str(sum(len(v.lost) for v in verdicts)),
        "started twice": str(sum(len(v.doubled) for v in verdicts)),
        "silently stopped": str(sum(len(r.stopped) for r in results)),
        "unexpected": str(sum(len(v.unexpected) for v in verdicts)),
        "not run, with a recorded reason": ", ".join(
            f"{n:,} {word}" for word, n in sorted(told.items())
        ),
        "kill -9": str(sum(f.kills for f in figures)),
        "freezes": str(sum(f.freezes for f in figures)),
        "server restarts": str(sum(f.restarts for f in figures)),
        "connections cut, swallowed": f"{sum(f.cuts for f in figures)}, "
        f"{sum(f.swallowings for f in figures)}",
        "server paused": str(sum(f.pauses for f in figures)),
        "keys of a wrong type, malformed messages": f"{sum(f.spoilt for f in figures)}, "
        f"{sum(f.letters for f in figures)}",
        "processes that exited by themselves": str(sum(f.ended for f in figures)),
        "messages delivered, twice": f"{sum(r.delivered for r in results):,}, "
        f"{sum(r.delivered_twice for r in results)}",
        "edits and triggers": f"{sum(r.edits for r in results):,}",
        "latest start": f"{late.total_seconds():.1f} s",
        "dispatch delay after a leader was lost": _spread(takeovers),
    }


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "none without another fault"
    return f"{median(seconds):.2f} s median, {max(seconds):.2f} s longest of {len(seconds)}"


if __name__ == "__main__":
    main()
