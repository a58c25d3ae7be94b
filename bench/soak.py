"""Beats, workers and people under random faults for as long as you like; the checker judges.

    python -m bench.soak --minutes 30

Rounds of two minutes, each on a fresh Valkey: kill -9 and SIGSTOP of beats and workers, restarts of
the server (SIGTERM with AOF synced every second, kill -9 with AOF synced always, by turns), a proxy
that cuts and swallows connections, a server that answers nobody, clocks that are minutes off, keys
of another type, malformed messages, edits, pauses and double-clicked triggers all the while. Work
is a line in a file, so that many occurrences fit into an hour; some jobs deliver to an HTTP server
here, some share a group, some have a budget. Then nothing is disturbed for a minute, and every job
that should run has to.
Ends with exit code 1 as soon as a round shows a fault, and says which.
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
#: "Did every job that should run do so in the last minute?"
_QUIET_SECONDS = 60.0
_FSYNC = ("everysec", "always")
_LEADERS = ("kill_leader", "freeze_leader")


@click.command()
@click.option("--minutes", type=float, default=5.0, show_default=True)
@click.option("--occurrences", type=int, help="Stop when there were so many.")
@click.option("--jobs", type=int, default=300, show_default=True, help="Most are due each second.")
@click.option("--beats", type=int, default=3, show_default=True)
@click.option("--shards", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--consumers", type=int, default=3, show_default=True, help="Workers without Celery.")
@click.option("--workers", type=int, default=1, show_default=True, help="Celery workers.")
@click.option("--fault-seconds", type=float, default=1.5, show_default=True)
@click.option("--takeover", is_flag=True, help="Nothing but leaders that die or freeze.")
@click.option("--seed", type=int, default=1, show_default=True)
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
    """Disturb, settle, check; round after round."""
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
        "on record as not run": ", ".join(f"{n:,} {word}" for word, n in sorted(told.items())),
        "kill -9": str(sum(f.kills for f in figures)),
        "freezes": str(sum(f.freezes for f in figures)),
        "server restarts": str(sum(f.restarts for f in figures)),
        "connections cut, swallowed": f"{sum(f.cuts for f in figures)}, "
        f"{sum(f.swallowings for f in figures)}",
        "server paused": str(sum(f.pauses for f in figures)),
        "keys of another type, malformed messages": f"{sum(f.spoilt for f in figures)}, "
        f"{sum(f.letters for f in figures)}",
        "processes that ended by themselves": str(sum(f.ended for f in figures)),
        "messages delivered, of these twice": f"{sum(r.delivered for r in results):,}, "
        f"{sum(r.delivered_twice for r in results)}",
        "edits and triggers": f"{sum(r.edits for r in results):,}",
        "latest start": f"{late.total_seconds():.1f} s",
        "leader gone, dispatch late by": _spread(takeovers),
    }


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "never undisturbed"
    return f"{median(seconds):.2f} s median, {max(seconds):.2f} s worst of {len(seconds)}"


if __name__ == "__main__":
    main()
