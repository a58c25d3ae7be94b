"""`status`: the leading beat, workers, queues and runs, as `observe.figures` reads them."""

from __future__ import annotations

import click

from hermes_celery.cli.exit_codes import ExitCode
from hermes_celery.cli.options import json_option
from hermes_celery.cli.scope import given_app, read_settings, with_scope
from hermes_celery.cli.screen import print_json, time_text
from hermes_celery.cli.terminal import print_labelled
from hermes_celery.core.counted import counted
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
from hermes_celery.store import beat_command
from hermes_celery.store.loss_note import LossNote
from hermes_celery.store.queue_health import QueueLook
from hermes_celery.wiring.server import readable_database


@click.command()
@click.option(
    "--check",
    is_flag=True,
    help="Report by the exit code whether the jobs are served.",
)
@json_option
def status(check: bool, as_json: bool) -> None:
    """Show the leading beat, the workers, the queues and the runs."""
    settings = read_settings()
    database = readable_database(settings)
    loss_note = LossNote(settings.state_dir, database)
    state = read_status(database, app=given_app(), loss_note=loss_note)
    if as_json:
        print_json(state)
    else:
        _print_status(state, url=without_password(redis_url(settings)))
    if check and not all_is_served(state):
        raise SystemExit(ExitCode.FAILED)


def _print_status(state: Status, *, url: str) -> None:
    zone = default_timezone()
    _say("server", f"{state.server} at {url}")
    _say("beat", f"{state.leader or who_is_missing(state)}")
    _say("workers", f"{', '.join(state.workers) or no_workers(state)}")
    for look in state.queues:
        if look.waiting:
            _say("queue", f"{_queue_line(look, zone=zone)}")
    for finding in queue_findings(state):
        _say(finding.verdict.value, finding.text)
    due = optional_from_ms(state.next_due_ms)
    _say("jobs", f"{state.jobs}, next due {time_text(due, zone=zone, missing='never')}")
    _say("runs", f"{state.queued} queued, {state.running} running")
    if state.incidents:
        _say("incidents", f"{state.incidents} open; `hermes-celery incidents` lists them")
    _print_troubles(state)
    if state.paused_ms is not None:
        since = time_text(optional_from_ms(state.paused_ms), zone=zone)
        note = f": {state.pause_note}" if state.pause_note else ""
        _say("paused", f"all jobs since {since}{note}; `hermes-celery resume --all` resumes them")


def _print_troubles(state: Status) -> None:
    for text in state.gone.splitlines():
        _say("gone", f"{text}")
    for text in state.refused:
        _say("refused", f"{text}")
    for text in state.broken:
        _say("broken", f"{text}; {REPAIR}")


def _say(label: str, text: str) -> None:
    print_labelled(f"{label:<10}", with_scope(text))


def _queue_line(look: QueueLook, *, zone: str) -> str:
    oldest = time_text(optional_from_ms(look.oldest_ms), zone=zone, missing="")
    since = f", the oldest since {oldest}" if oldest else ""
    waiting = counted(look.waiting, "message waits", "messages wait")
    return f"{look.name}: {waiting}{since}; {counted(len(look.workers), 'worker')}"


def who_is_missing(state: Status) -> str:
    """Describe which shards have no leader."""
    if len(state.unled) == state.shards:
        return f"none: nothing is dispatched; start {beat_command(state.app)}"
    missing = ", ".join(map(str, state.unled))
    return f"none for shard {missing} of {state.shards}; a beat takes over within a second"
