"""Measure how busy each pool keeps its slots: sleeps of 50 ms on four slots (one under `solo`).

    python -m bench.pools [--rounds N] [--runs N] [--json FILE]

The runs are queued before the worker starts. Two figures come from their records, from the first
start on. One is the number of starts per second; a slot could reach 20 if a run were nothing but
its sleep. The other is the share of time in which the slots were busy, from claim to finish. Both
are measured in the package's app and in a project, with task events and without.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import msgspec
from rich.console import Console

from bench import options
from bench.bed import SLOTS, Bed, fresh_bed, wait_until_done
from bench.napping import ENVIRONMENT, SECONDS, TASK, make_project
from bench.server import child
from bench.show import new_table, stop_in_order
from hermes_celery.client import Client
from hermes_celery.core.job import JobRequest
from hermes_celery.core.run import RunState
from hermes_celery.core.work import TaskCall
from hermes_celery.store import Database
from hermes_celery.wiring.client import open_cron

_POOLS = ("prefork", "threads", "gevent", "solo")
_APPS = ("own", "project")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one pool, app and setting of task events, over some rounds."""

    pool: str
    app: str
    events: bool
    per_second: float
    #: Share of the slots' time, from the first claim to the last finish, in which they had a run.
    busy: float


class _Pace(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one round."""

    per_second: float
    busy: float


@click.command(help=__doc__)
@options.rounds
@click.option(
    "--runs", default=200, show_default=True, help="Runs per round; a quarter of it under solo."
)
@options.only("--pool", _POOLS, what="pool")
@options.json_path
def main(rounds: int, runs: int, pool: tuple[str, ...], json_path: Path | None) -> None:
    """Measure in turns and print a table."""
    stop_in_order()
    ways = [(one, app, events) for one in pool for app in _APPS for events in (False, True)]
    paces: dict[tuple[str, str, bool], list[_Pace]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            paces[way].append(_pace(*way, runs))
    rows = [
        Row(
            pool=pool, app=app, events=events,
            per_second=median(pace.per_second for pace in found),
            busy=median(pace.busy for pace in found),
        )
        for (pool, app, events), found in paces.items()
    ]  # fmt: skip
    table = new_table(f"sleeps of {SECONDS * 1000:.0f} ms, median of {rounds}")
    for name in ("pool", "app", "events", "starts per second", "of the maximum", "slots busy"):
        table.add_column(name)
    for row in rows:
        on = "on" if row.events else "off"
        naps = row.per_second * SECONDS / _slots(row.pool)
        table.add_row(
            row.pool, row.app, on, f"{row.per_second:.1f}", f"{naps:.0%}", f"{row.busy:.0%}"
        )
    Console(width=100).print(table)
    options.write_figures(json_path, rows)


def _slots(pool: str) -> int:
    return 1 if pool == "solo" else SLOTS


def _pace(pool: str, app: str, events: bool, runs: int) -> _Pace:
    """Measure one round on a server of its own."""
    count = runs // 4 if pool == "solo" else runs
    with fresh_bed() as bed:
        cron, database = _OPEN[app](bed)
        task = TaskCall(name=TASK) if app == "project" else None
        prompt = None if task else "nap"
        job = cron.add(JobRequest(schedule="every 1d", name="nap", prompt=prompt, task=task))
        for _ in range(count):
            cron.run(job.id)
        environment = {
            **bed.environment, **ENVIRONMENT, "HERMES_CELERY_EVENTS": "on" if events else "off"
        }  # fmt: skip
        command = [
            sys.executable, "-m", "celery", "-A", f"bench.napping:{app}", "worker", "-P", pool,
            "-c", str(_slots(pool)), "--without-mingle", *(["-E"] if events else []),
        ]  # fmt: skip
        with child(command, environment=environment, log=bed.log):
            wait_until_done(msgspec.structs.replace(bed, database=database))
        found = cron.latest_runs(job.id, state=RunState.SUCCEEDED, limit=count)
    spans = [
        (run.started_at.timestamp(), run.finished_at.timestamp())
        for run in found
        if run.started_at and run.finished_at
    ]
    if len(spans) != count:
        raise click.ClickException(f"{len(spans)} of {count} runs succeeded under {pool}")
    starts, ends = sorted(began for began, _ in spans), [end for _, end in spans]
    slots = _slots(pool)
    return _Pace(
        per_second=(count - slots) / (starts[-1] - starts[0]),
        busy=sum(end - began for began, end in spans) / (slots * (max(ends) - starts[0])),
    )


def _own(bed: Bed) -> tuple[Client, Database]:
    return open_cron(bed.settings), bed.database


def _project(bed: Bed) -> tuple[Client, Database]:
    client = make_project(bed.url)[1].client
    return client, client.runs._database


_OPEN: dict[str, Callable[[Bed], tuple[Client, Database]]] = {"own": _own, "project": _project}


if __name__ == "__main__":
    main()
