"""`celery -A shop cron ...`: the commands of `hermes-celery -A shop` as a subcommand of Celery.

Celery imports this module for each of its own commands. It therefore imports little, and reads
nothing of the app until a command needs it.
"""

from __future__ import annotations

from typing import Any

import click

from hermes_celery.cli import Commands, namespace_option


@click.group(
    "cron",
    cls=Commands,
    short_help="Manage the jobs and runs of this app's cron (hermes-celery).",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@namespace_option
@click.pass_context
def cron(ctx: click.Context, namespace: str | None) -> None:
    """Manage the jobs and runs of this app's cron: the commands of `hermes-celery -A APP`.

    Name a job by its id or its full name. Times are shown in your zone (HERMES_TIMEZONE, else the
    host's zone); `--json` prints them in UTC.
    """
    # Imported here to start fast: each `celery` command imports this module.
    from hermes_celery.cli.scope import Scope, about

    given = _given_app(ctx)
    found = ctx.obj.app if given is not None else None
    about(ctx, Scope(namespace=namespace, app=given, is_below_celery=True, found=found))


def _given_app(ctx: click.Context) -> str | None:
    """Return the value of `celery -A`; for an app object, its name."""
    given: Any = None if ctx.parent is None else ctx.parent.params.get("app")
    return given if given is None or isinstance(given, str) else str(given.main or "APP")
