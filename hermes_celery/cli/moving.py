"""`move`: take jobs along from another namespace of the same server."""

from __future__ import annotations

from dataclasses import replace

import click

from hermes_celery.cli.screen import print_json
from hermes_celery.cli.target import read_settings
from hermes_celery.compose_store import open_database, reachable_database
from hermes_celery.settings import DEFAULT_NAMESPACE, checked_namespace
from hermes_celery.store import Jobs, Moved, Mover

_WORDS = {
    Moved.OK: "moved",
    Moved.RUNNING: "not moved: a worker performs one of its runs; try again when that has ended",
    Moved.THERE: "is there already; it was taken off the other namespace",
    Moved.BUSY: "not moved: somebody changes it at this moment; try again",
}


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option(
    "--from",
    "source",
    default=DEFAULT_NAMESPACE,
    metavar="NAME",
    help="Where they are now. Default: hermes, where version 0.1.0 kept every project's jobs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def move(jobs: tuple[str, ...], source: str, as_json: bool) -> None:
    """Move JOBs here from another namespace, with their runs, paused state and incidents.

    `hermes-celery -N shop move backup` takes the job `backup` of the namespace `hermes` into that
    of the project `shop`, whose beat and workers run it from then on.
    """
    settings = read_settings()
    try:
        checked_namespace(source)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--from") from None
    if settings.namespace == source:
        raise click.UsageError(
            f"the jobs are in namespace {source!r} already; say where to: "
            "hermes-celery -N NAMESPACE move JOB..."
        )
    target = reachable_database(settings)
    origin = open_database(replace(settings, namespace=source))
    mover, done = Mover(origin, target), []
    for reference in jobs:
        job = Jobs(origin).find(reference)
        done.append((job, mover.move(job, now_ms=target.now_ms())))
    if as_json:
        print_json([{"id": job.id, "name": job.name, "moved": word.value} for job, word in done])
    else:
        for job, word in done:
            click.echo(f"{job.id}  {job.name}  {_WORDS[word]}")
    if any(word in (Moved.RUNNING, Moved.BUSY) for _, word in done):
        raise SystemExit(1)
