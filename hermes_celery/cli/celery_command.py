"""`celery -A shop cron ...`: the commands of `hermes-celery -A shop`, below Celery's own.

Celery imports this for each of its commands, so that little is imported here, and nothing of an app
is looked at before a verb asks for it.
"""

from __future__ import annotations

from typing import Any

import click

from hermes_celery.cli import Commands, namespace_option


@click.group(
    "cron",
    cls=Commands,
    short_help="Jobs and runs of this app's cron (hermes-celery).",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@namespace_option
@click.pass_context
def cron(ctx: click.Context, namespace: str | None) -> None:
    """Jobs and runs of this app's cron: the commands of `hermes-celery -A APP`.

    Jobs are named by their id or their whole name. Times are shown in your zone (HERMES_TIMEZONE,
    else the host's); `--json` gives them in UTC.
    """
    # Once a command was named: each `celery` command imports this module.
    from hermes_celery.cli.scope import Scope, about

    given = _given_app(ctx)
    found = ctx.obj.app if given is not None else None
    about(ctx, Scope(namespace=namespace, app=given, is_below_celery=True, found=found))


def _given_app(ctx: click.Context) -> str | None:
    """What `celery -A` was given; the name of an app that was handed over as it is."""
    given: Any = None if ctx.parent is None else ctx.parent.params.get("app")
    return given if given is None or isinstance(given, str) else str(given.main or "APP")
