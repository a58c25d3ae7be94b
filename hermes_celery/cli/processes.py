"""`up status tick`: the processes of this machine, and what they are doing."""

from __future__ import annotations

import click

from hermes_celery.cli.screen import print_json, shown
from hermes_celery.cli.status import Status, read_status
from hermes_celery.compose import open_cron, open_database, reachable_database, redis_url
from hermes_celery.errors import HermesCeleryError, LeaseLost
from hermes_celery.instant import optional_from_ms
from hermes_celery.settings import default_timezone, read_settings, without_password

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, times in UTC.")


@click.command()
@click.option("--demo", is_flag=True, help="Add a job that says hello every ten seconds.")
def up(demo: bool) -> None:
    """Start everything on this machine, and stop it in order on Ctrl-C.

    A Valkey server of its own unless HERMES_REDIS_URL names one, a beat, and a worker with
    HERMES_CRON_MAX_WORKERS slots (default 4). A running job gets HERMES_CELERY_GRACE seconds
    (default 30) when it stops. What ends is shown as it happens.
    """
    from hermes_celery.cli.up import bring_up

    raise SystemExit(bring_up(read_settings(), demo=demo))


@click.command()
@click.option("--check", is_flag=True, help="Exit with 1 when no beat leads or no worker is there.")
@_json
def status(check: bool, as_json: bool) -> None:
    """Say who leads, what waits and what runs."""
    settings = read_settings()
    database = reachable_database(settings)
    state = read_status(database)
    if as_json:
        print_json(state)
    else:
        _print_status(state, url=without_password(redis_url(settings)))
    if check and not (state.leader and state.workers):
        raise SystemExit(1)


def _print_status(state: Status, *, url: str) -> None:
    zone = default_timezone()
    click.echo(f"server    {state.server} at {url}")
    click.echo(f"beat      {state.leader or 'none: nothing is dispatched; start `celery beat`'}")
    click.echo(f"workers   {', '.join(state.workers) or 'none: nothing runs; start a worker'}")
    due = optional_from_ms(state.next_due_ms)
    click.echo(f"jobs      {state.jobs}, next due {shown(due, zone=zone, missing='never')}")
    click.echo(f"runs      {state.queued} queued, {state.running} running")
    if state.incidents:
        click.echo(f"incidents {state.incidents} open; `hermes-celery incidents` lists them")
    if state.paused_ms is not None:
        since = shown(optional_from_ms(state.paused_ms), zone=zone)
        note = f": {state.pause_note}" if state.pause_note else ""
        click.echo(
            f"paused    everything since {since}{note}; `hermes-celery resume --all` goes on"
        )


@click.command("tick")
@_json
def tick_command(as_json: bool) -> None:
    """Dispatch what is due now, once; a beat that leads does so by itself."""
    from hermes_celery.app import make_app
    from hermes_celery.beat import owner_name
    from hermes_celery.clock import ServerClock
    from hermes_celery.dispatch import Dispatch
    from hermes_celery.lease import Lease
    from hermes_celery.store import DueIndex
    from hermes_celery.tick import tick

    settings = read_settings()
    open_cron(settings)
    database = open_database(settings)
    clock = ServerClock(database.now_ms)
    lease = Lease(database, owner=owner_name(), clock=clock)
    token = lease.hold()
    if token is None:
        click.echo("a beat leads and ticks by itself; nothing was done", err=True)
        return
    try:
        report = tick(
            DueIndex(database), Dispatch(make_app(settings)), token=token, now_ms=clock.now_ms()
        )
    except LeaseLost as error:
        raise HermesCeleryError(str(error)) from None
    finally:
        lease.release()
    if as_json:
        print_json(report)
    else:
        click.echo(
            f"{report.dispatched} dispatched, {report.overlapping} skipped (still running), "
            f"{report.broken} broken"
        )
