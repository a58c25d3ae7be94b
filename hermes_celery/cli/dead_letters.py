"""`letters`: the dead letters, messages that no worker could read."""

from __future__ import annotations

import click

from hermes_celery.cli.options import json_option
from hermes_celery.cli.scope import read_settings
from hermes_celery.cli.screen import print_json, time_text
from hermes_celery.cli.terminal import print_note, print_table
from hermes_celery.core.counted import counted
from hermes_celery.core.dead_letters import KEPT
from hermes_celery.settings import default_timezone
from hermes_celery.store import Letters
from hermes_celery.wiring.server import reachable_database

_COLUMNS = ("WHEN", "QUEUE", "SIZE", "RUN", "WHY", "BEGINS")
_SHOWN_BYTES = 60


@click.group(invoke_without_command=True, subcommand_metavar="[COMMAND] [ARGS]...")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, KEPT),
    default=20,
    show_default=True,
    help="List at most this many letters.",
)
@json_option
@click.pass_context
def letters(ctx: click.Context, limit: int, as_json: bool) -> None:
    """List dead letters, newest first: messages that no worker could read.

    The last 1,000 are kept. Control characters in a message are escaped, so nothing in it can act
    on your terminal. `--json` prints the first 4 KiB of each message in base64.
    """
    if ctx.invoked_subcommand is not None:
        return
    found = Letters(reachable_database(read_settings())).latest(limit=limit)
    if as_json:
        print_json([letter.as_json() for letter in found])
        return
    zone = default_timezone()
    rows = (
        (
            time_text(letter.at, zone=zone),
            _escaped(letter.queue),
            str(letter.size),
            letter.run_id or "-",
            _escaped(letter.why),
            _escaped(letter.raw()[:_SHOWN_BYTES].decode("latin-1")),
        )
        for letter in found
    )
    print_table(_COLUMNS, rows, empty="no message was unreadable")
    for advice in sorted({letter.advice for letter in found}):
        print_note(f"→ {advice}")


@letters.command()
def clear() -> None:
    """Delete the kept letters; the count of all letters ever seen stays."""
    count = Letters(reachable_database(read_settings())).clear()
    click.echo(f"{counted(count, 'letter')} deleted")


def _escaped(text: str) -> str:
    """Return a text in printable ASCII, with all else escaped as in a Python string."""
    return ascii(text)[1:-1]
