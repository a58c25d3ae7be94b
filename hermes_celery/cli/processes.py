"""`up status tick`: the processes of this machine, and what they are doing."""

from __future__ import annotations

import click

from hermes_celery.cli.scope import (
    given_app,
    messages_for,
    open_cron,
    project,
    read_settings,
    repeating,
)
from hermes_celery.cli.screen import print_json, shown
from hermes_celery.errors import HermesCeleryError, LeaseLost
from hermes_celery.instant import optional_from_ms
from hermes_celery.masking.server_urls import without_password
from hermes_celery.observe.checks.records import REPAIR
from hermes_celery.observe.checks.workers_and_queues import (
    all_is_served,
    no_workers,
    queue_findings,
)
from hermes_celery.observe.figures import Status, read_status
from hermes_celery.settings import default_timezone, redis_url
from hermes_celery.store import OUR_APP, Database, beat_command, worker_app
from hermes_celery.store.database import MOST_SHARDS
from hermes_celery.store.loss_note import Witness
from hermes_celery.store.queue_health import QueueLook
from hermes_celery.wiring.server import open_database, reachable_database, readable_database

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, times in UTC.")


@click.command()
@click.option("--demo", is_flag=True, help="Add a job that says hello every ten seconds.")
@click.option(
    "--shards",
    type=click.IntRange(1, MOST_SHARDS),
    metavar="COUNT",
    help="Split the due index among several beats, and start them. Default: as it is split now.",
)
def up(demo: bool, shards: int | None) -> None:
    """Start everything on this machine, and stop it in order on Ctrl-C.

    A Valkey server of its own unless HERMES_REDIS_URL names one, a beat, and a worker with
    HERMES_CRON_MAX_WORKERS slots (default 4). A running job gets HERMES_CELERY_GRACE seconds
    (default 30) when it stops. What ends is shown as it happens. Where the due index is split into
    shards there is a beat for each, as far as there are cores.
    """
    from hermes_celery.cli.up import bring_up

    if project() is not None:
        raise click.UsageError(
            "`up` starts our own app, not a project's; start `celery -A APP worker` and "
            "`celery -A APP beat -S hermes_celery.beat:CronScheduler`"
        )
    raise SystemExit(bring_up(read_settings(), demo=demo, shards=shards))


@click.command()
@click.option(
    "--check",
    is_flag=True,
    help="Exit with 1 when no beat leads, no worker is there, or nobody takes what waits.",
)
@_json
def status(check: bool, as_json: bool) -> None:
    """Say who leads, what waits and what runs."""
    settings = read_settings()
    database = readable_database(settings)
    witness = Witness(settings.state_dir, database)
    state = read_status(database, app=given_app(), witness=witness)
    if as_json:
        print_json(state)
    else:
        _print_status(state, url=without_password(redis_url(settings)))
    if check and not all_is_served(state):
        raise SystemExit(1)


def _print_status(state: Status, *, url: str) -> None:
    zone = default_timezone()
    _say(f"server    {state.server} at {url}")
    _say(f"beat      {state.leader or _unled(state)}")
    _say(f"workers   {', '.join(state.workers) or no_workers(state)}")
    for look in state.queues:
        if look.waiting:
            _say(f"queue     {_queue_line(look, zone=zone)}")
    for finding in queue_findings(state):
        _say(f"{finding.verdict.value:<9} {finding.text}")
    due = optional_from_ms(state.next_due_ms)
    _say(f"jobs      {state.jobs}, next due {shown(due, zone=zone, missing='never')}")
    _say(f"runs      {state.queued} queued, {state.running} running")
    if state.incidents:
        _say(f"incidents {state.incidents} open; `hermes-celery incidents` lists them")
    _print_troubles(state)
    if state.paused_ms is not None:
        since = shown(optional_from_ms(state.paused_ms), zone=zone)
        note = f": {state.pause_note}" if state.pause_note else ""
        _say(f"paused    everything since {since}{note}; `hermes-celery resume --all` goes on")


def _print_troubles(state: Status) -> None:
    if state.gone:
        _say(f"gone      {state.gone}")
    for text in state.refused:
        _say(f"refused   {text}")
    for text in state.broken:
        _say(f"broken    {text}; {REPAIR}")


def _say(text: str) -> None:
    click.echo(repeating(text))


def _queue_line(look: QueueLook, *, zone: str) -> str:
    oldest = shown(optional_from_ms(look.oldest_ms), zone=zone, missing="")
    since = f", the oldest since {oldest}" if oldest else ""
    return f"{look.name}: {look.waiting} messages wait{since}; {len(look.workers)} workers"


def _unled(state: Status) -> str:
    if len(state.unled) == state.shards:
        return f"none: nothing is dispatched; start {beat_command(state.app)}"
    missing = ", ".join(map(str, state.unled))
    return f"none for shard {missing} of {state.shards}; a beat takes over within a second"


@click.command()
@click.argument("count", type=int, required=False)
@_json
def shards(count: int | None, as_json: bool) -> None:
    """Say into how many shards the due index is split, or split it into COUNT (1 to 64).

    Each shard is ticked by one beat, and the beats share them evenly: worth it where planning keeps
    one beat busy, on a Redis of your own. Stop every beat first; jobs and workers stay as they are.
    What `up` started, `hermes-celery up --shards COUNT` splits, and it starts the beats for it.
    """
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
        click.echo(f"beat      {state.leader or _unled(state)}")


@click.command("tick")
@_json
def tick_command(as_json: bool) -> None:
    """Dispatch what is due now, once; a beat that leads does so by itself."""
    from hermes_celery.clock import ServerClock
    from hermes_celery.scheduling.beat import owner_name
    from hermes_celery.scheduling.lease import Lease
    from hermes_celery.scheduling.tick import merged, tick
    from hermes_celery.store import DueIndex
    from hermes_celery.wiring.client import why_sent_of

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
            reports.append(tick(due_index, messages, token=token, now_ms=clock.now_ms()))
        except LeaseLost as error:
            raise HermesCeleryError(str(error)) from None
        finally:
            lease.release()
    report = merged(reports)
    if report is None:
        click.echo("a beat leads and ticks by itself; nothing was done", err=True)
    elif as_json:
        print_json(report)
    else:
        click.echo(
            f"{report.dispatched} dispatched, {report.overlapping} skipped (still running), "
            f"{report.broken} broken"
        )


def _refuse_without_app(database: Database, namespace: str, *, now_ms: int) -> None:
    """Refuse to make a project's messages without its app. Raises HermesCeleryError."""
    app = worker_app(database, now_ms=now_ms)
    if project() is None and app != OUR_APP:
        raise HermesCeleryError(
            f"the jobs of namespace {namespace!r} are a project's, whose app says which queues "
            f"their messages go to; nothing was done: hermes-celery -A {app or 'APP'} tick"
        )
