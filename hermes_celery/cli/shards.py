"""`shards`: show or change the number of shards of the due index; one beat ticks each."""

from __future__ import annotations

import click

from hermes_celery.cli.options import json_option
from hermes_celery.cli.scope import given_app, read_settings
from hermes_celery.cli.screen import print_json
from hermes_celery.cli.status import who_is_missing
from hermes_celery.core.counted import counted
from hermes_celery.observe.figures import read_status
from hermes_celery.wiring.server import reachable_database, readable_database


@click.command()
@click.argument("count", type=int, required=False)
@json_option
def shards(count: int | None, as_json: bool) -> None:
    """Show how many shards the due index has, or split it into COUNT (1 to 64).

    One beat ticks each shard, and the beats share the shards evenly. Splitting helps when planning
    keeps one beat busy. Stop every beat first and start them again afterwards; jobs and workers
    stay as they are. For what `up` started, use `hermes-celery up --shards COUNT`, which also
    starts the beats.
    """
    # Imported here to start fast: it builds a beat and imports Celery.
    from hermes_celery.wiring.beat import split_due_index

    opened = readable_database if count is None else reachable_database
    database = opened(read_settings())
    moved = 0
    if count is not None:
        moved = split_due_index(database, count)
    state = read_status(database, app=given_app())
    if as_json:
        print_json({"shards": state.shards, "moved": moved, "unled": state.unled})
        return
    if count is not None:
        jobs = counted(moved, "job")
        click.echo(f"split into {state.shards}; {jobs} moved. Start the beats again")
    else:
        click.echo(f"shards    {state.shards}")
        click.echo(f"beat      {state.leader or who_is_missing(state)}")
