"""`shards`: into how many the due index is split, each ticked by one beat."""

from __future__ import annotations

import click

from hermes_celery.cli.options import json_option
from hermes_celery.cli.scope import given_app, read_settings
from hermes_celery.cli.screen import print_json
from hermes_celery.cli.status import who_is_missing
from hermes_celery.observe.figures import read_status
from hermes_celery.wiring.server import reachable_database, readable_database


@click.command()
@click.argument("count", type=int, required=False)
@json_option
def shards(count: int | None, as_json: bool) -> None:
    """Say into how many shards the due index is split, or split it into COUNT (1 to 64).

    Each shard is ticked by one beat, and the beats share them evenly: worth it where planning keeps
    one beat busy, on a Redis of your own. Stop every beat first; jobs and workers stay as they are.
    What `up` started, `hermes-celery up --shards COUNT` splits, and it starts the beats for it.
    """
    # What splits builds a beat, and so imports Celery; to read the number needs none of it.
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
        click.echo(f"split into {state.shards}; {moved:,} jobs moved. Start the beats again")
    else:
        click.echo(f"shards    {state.shards}")
        click.echo(f"beat      {state.leader or who_is_missing(state)}")
