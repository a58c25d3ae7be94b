"""Measure this package and its peers in turns, in one command.

    python -m bench.peers

Part `due` makes N no-op jobs due at one instant and measures until the last message and until the
last finished run. Part `idle` measures a tick with nothing due. `docs/explanation/numbers.md`
explains how each figure is measured and to whom it is unfair.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from rich.console import Console

from bench import options
from bench.peers.celery_peers import KINDS, CeleryPeer
from bench.peers.hermes_agent import HermesAgent
from bench.peers.install import HERMES, Package, install
from bench.peers.measure import Contender, Times
from bench.peers.ours import Ours
from bench.peers.report import Fault, Idle, Measured, Report, figures, print_report
from bench.server import BenchError
from bench.show import stop_in_order

PARTS = ("due", "idle")
SYSTEMS = ("celery", "celery-redbeat", "django-celery-beat", "hermes-agent")


@click.command()
@options.counts("--jobs", default=(10, 100, 1000, 10_000), what="Number of jobs due at one instant")
@options.counts("--stored", default=(1000, 10_000), what="Number of stored jobs in `idle`")
@options.rounds
@click.option(
    "--limit-seconds",
    type=float,
    default=120.0,
    show_default=True,
    help="Stop a system that takes longer; its cell says how many jobs were done.",
)
@options.only("--only", PARTS, what="part")
@options.only("--peer", SYSTEMS, what="peer")
@options.json_path
def main(
    jobs: tuple[int, ...],
    stored: tuple[int, ...],
    rounds: int,
    limit_seconds: float,
    only: tuple[str, ...],
    peer: tuple[str, ...],
    json_path: Path | None,
) -> None:
    """Install missing peers, measure all systems in turns, and print tables."""
    stop_in_order()
    console = Console(width=130)
    report = Report(limit_seconds=limit_seconds, ours=Ours.name, load=os.getloadavg()[0])
    contenders = [Ours(), *_installed(peer, report)]
    try:
        for count in jobs if "due" in only else ():
            _due(contenders, count, rounds=rounds, report=report)
        for count in stored if "idle" in only else ():
            _idle(contenders, count, report=report)
    finally:
        # After Ctrl-C, print the figures measured so far.
        print_report(console, report)
    options.write_figures(json_path, figures(report))


def _installed(wanted: Sequence[str], report: Report) -> list[Contender]:
    """Return the peers that could be installed; add the others to the report's faults."""
    makers: list[tuple[Package, Callable[[str], Contender]]] = [
        *(
            (kind.package, lambda version, kind=kind: CeleryPeer(kind, version=version))
            for kind in KINDS
        ),
        (HERMES, lambda version: HermesAgent(version=version)),
    ]
    contenders = []
    for package, make in makers:
        if package.name not in wanted:
            continue
        try:
            contenders.append(make(install(package)))
        except BenchError as error:
            report.faults.append(Fault(system=package.name, what="installing", why=str(error)))
    return contenders


def _due(contenders: Sequence[Contender], count: int, *, rounds: int, report: Report) -> None:
    """Measure all rounds for one number of jobs; a system over the limit gets no more rounds."""
    found: dict[str, list[Times]] = {contender.name: [] for contender in contenders}
    racing = list(contenders)
    for _ in range(rounds):
        for contender in list(racing):
            times = _measure(contender, count, report=report)
            if times is not None:
                found[contender.name].append(times)
            if times is None or not times.within_limit:
                racing.remove(contender)
    report.due += [
        Measured(system=name, jobs=count, rounds=times) for name, times in found.items() if times
    ]


def _measure(contender: Contender, count: int, *, report: Report) -> Times | None:
    click.echo(f"{count:,} jobs: {contender.name}", err=True)
    try:
        return contender.measure(count, limit_seconds=report.limit_seconds)
    except BenchError as error:
        what = f"{count:,} jobs"
        report.faults.append(Fault(system=contender.name, what=what, why=str(error)))
        return None


def _idle(contenders: Sequence[Contender], stored: int, *, report: Report) -> None:
    for contender in contenders:
        click.echo(f"{stored:,} stored: {contender.name}", err=True)
        try:
            ticks = contender.idle_ticks(stored)
        except BenchError as error:
            what = f"{stored:,} stored"
            report.faults.append(Fault(system=contender.name, what=what, why=str(error)))
            continue
        report.idle.append(
            Idle(system=contender.name, stored=stored, every=contender.idles, ticks_ms=ticks)
        )


if __name__ == "__main__":
    main()
