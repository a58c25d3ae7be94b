"""`tick`: dispatch the due jobs once, by hand, where no beat leads."""

from __future__ import annotations

import click

from hermes_celery.cli.options import json_option
from hermes_celery.cli.scope import project, read_settings
from hermes_celery.cli.screen import print_json
from hermes_celery.cli.store_access import messages_for, open_cron
from hermes_celery.clock import ServerClock
from hermes_celery.errors import HermesCeleryError, LeaseLost
from hermes_celery.scheduling.beat import owner_name
from hermes_celery.scheduling.lease import Lease
from hermes_celery.scheduling.tick import Ticker, merged
from hermes_celery.store import OUR_APP, Database, DueIndex, worker_app
from hermes_celery.wiring.client import why_sent_of
from hermes_celery.wiring.server import open_database


@click.command("tick")
@json_option
def tick_command(as_json: bool) -> None:
    """Dispatch the due jobs once; do nothing if a beat leads, which dispatches them itself."""
    settings = read_settings()
    open_cron(settings)
    database = open_database(settings)
    clock = ServerClock(database.now_ms)
    _refuse_without_app(database, settings.namespace, now_ms=clock.now_ms())
    messages, owner, reports = messages_for(settings), owner_name(), []
    why_sent = why_sent_of(database, project())
    for shard in range(database.shards):
        lease = Lease(database, owner=owner, clock=clock, shard=shard)
        token = lease.hold()
        if token is None:
            continue
        due_index = DueIndex(database, shard=shard, why_sent=why_sent)
        try:
            reports.append(Ticker(due_index, messages).tick(token=token, now_ms=clock.now_ms()))
        except LeaseLost as error:
            raise HermesCeleryError(str(error)) from None
        finally:
            lease.release()
    report = merged(reports)
    if report is None:
        click.echo("a beat leads and ticks by itself; nothing was done", err=True)
    if as_json:
        print_json(report)
    elif report is not None:
        click.echo(
            f"{report.dispatched} dispatched, {report.overlapping} skipped (still running), "
            f"{report.broken} broken"
        )


def _refuse_without_app(database: Database, namespace: str, *, now_ms: int) -> None:
    """Refuse to make a project's messages without its app. Raises HermesCeleryError."""
    app = worker_app(database, now_ms=now_ms)
    if project() is None and app != OUR_APP:
        raise HermesCeleryError(
            f"the jobs of namespace {namespace!r} belong to a project, and only its app knows the "
            f"queues of their messages; nothing was done: hermes-celery -A {app or 'APP'} tick"
        )
