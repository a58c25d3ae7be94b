"""`run runs logs backfill cancel`: the commands for runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import click

from hermes_celery.cli.delivery import delivery_lines, delivery_states
from hermes_celery.cli.exit_codes import ExitCode
from hermes_celery.cli.following import follow as follow_run
from hermes_celery.cli.options import Instant, Since, json_option
from hermes_celery.cli.scope import read_settings, with_scope
from hermes_celery.cli.screen import RUN_COLUMNS, print_json, run_row, summary
from hermes_celery.cli.store_access import open_cron, open_cron_to_read
from hermes_celery.cli.terminal import print_note, print_table
from hermes_celery.client import Client
from hermes_celery.core.counted import counted
from hermes_celery.core.output import as_text
from hermes_celery.core.run import Run, RunState, is_run_id
from hermes_celery.errors import JobNotFound, StoreUnavailable, shown
from hermes_celery.settings import default_timezone
from hermes_celery.wiring.server import went_away

_POLL_SECONDS = 0.1


@click.command()
@click.argument("job")
@click.option(
    "--wait",
    is_flag=True,
    help="Wait until the run ends, print its output, and exit with its exit code.",
)
@click.option(
    "--key",
    help="An idempotency key, at most 1,000 characters: the same key within 24 hours makes no "
    "second run.",
)
@json_option
def run(job: str, wait: bool, key: str | None, as_json: bool) -> None:
    """Run JOB now, in addition to its schedule, and print the run's id."""
    cron = open_cron()
    run_id = cron.run(job, key=key)
    if not wait:
        if as_json:
            print_json(cron.runs.get(run_id).as_json())
        else:
            click.echo(run_id)
        return
    if not as_json:
        click.echo(run_id, err=True)
    with _server_stays(run_id):
        ended = _followed(cron, run_id)
        if as_json:
            print_json(ended.as_json())
        else:
            _print_output(cron, run_id)
            print_note(_ending(ended))
    sys.exit(_exit_code(ended))


@click.command()
@click.argument("job", required=False)
@click.option(
    "--limit",
    "-n",
    metavar="N",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="List at most this many runs.",
)
@click.option(
    "--state",
    type=click.Choice([state.value for state in RunState]),
    help="List only runs in this state.",
)
@click.option(
    "--since",
    type=Since(),
    metavar="TIME",
    help="List only runs queued since this time: ISO, or how long ago (2h, 1d).",
)
@click.option("--after", metavar="RUN", help="Continue after this run: list older ones.")
@json_option
def runs(
    job: str | None,
    limit: int,
    state: str | None,
    since: datetime | None,
    after: str | None,
    as_json: bool,
) -> None:
    """List the latest runs of all jobs, or of JOB, newest first."""
    cron = open_cron_to_read()
    found = cron.latest_runs(
        job, state=RunState(state) if state else None, since=since, after=after, limit=limit
    )
    if as_json:
        print_json([item.as_json() for item in found])
        return
    zone = default_timezone()
    said = map(summary, found, cron.runs.beginnings([item.id for item in found]))
    print_table(
        RUN_COLUMNS,
        [run_row(item, zone=zone, said=line) for item, line in zip(found, said, strict=True)],
        spare=("SAID", "WORKER", "TOOK"),
        empty=with_scope("no runs yet; `hermes-celery list` shows when jobs are due"),
    )


@click.command()
@click.argument("run_or_job")
@click.option(
    "--follow",
    "-f",
    is_flag=True,
    help="Print new output as it comes, until the run ends.",
)
@json_option
def logs(run_or_job: str, follow: bool, as_json: bool) -> None:
    """Print the output of a run; for a job, of its latest run.

    RUN_OR_JOB is a run's id, or a job's id or name. What the run wrote to stderr goes to stderr.
    """
    cron = open_cron_to_read()
    item = _run_or_latest(cron, run_or_job)
    if follow and not as_json:
        with _server_stays(item.id):
            print_note(_ending(follow_run(cron.runs, item.id)))
        return
    if as_json:
        print_json(
            {
                **item.as_json(),
                "output": as_text(cron.runs.output(item.id)),
                "stderr": as_text(cron.runs.stderr(item.id)),
                "deliveries": delivery_states(item.id),
            }
        )
        return
    _print_output(cron, item.id)
    print_note(_ending(item))
    for line in delivery_lines(item):
        print_note(line)


@click.command()
@click.argument("run_id", metavar="RUN")
def cancel(run_id: str) -> None:
    """Cancel RUN: at once if it is queued, within a second if it is running."""
    answer = open_cron().cancel(run_id)
    if answer == "over":
        raise click.ClickException(f"run {run_id} has already ended; nothing was changed")
    click.echo(
        f"cancelled {run_id}" if answer == "cancelled" else f"asked {run_id} to end; see `runs`"
    )


@click.command()
@click.argument("job")
@click.option(
    "--from",
    "start",
    type=Instant(),
    required=True,
    metavar="TIME",
    help="The first instant of the range.",
)
@click.option(
    "--to",
    "end",
    type=Instant(),
    metavar="TIME",
    help="The last instant of the range. Default: now.",
)
@click.option(
    "--beside", is_flag=True, help="Let the runs overlap instead of running one after the other."
)
@click.option(
    "--per-minute",
    metavar="N",
    type=int,
    default=60,
    show_default=True,
    help="With --beside: runs started per minute, 1 to 60,000.",
)
@json_option
def backfill(
    job: str, start: datetime, end: datetime | None, beside: bool, per_minute: int, as_json: bool
) -> None:
    """Run JOB for each occurrence without a run in a past time range.

    TIME is an ISO time; without an offset it is in your zone. A range has at most 1,000
    occurrences. Doing it again makes no second run of an occurrence.
    """
    cron = open_cron()
    end = end or cron.now
    made = cron.backfill(job, start=start, end=end, one_by_one=not beside, per_minute=per_minute)
    if as_json:
        print_json(made)
    elif made:
        click.echo(f"{counted(len(made), 'run')} queued")
    else:
        why = cron.never_due(job, start=start, end=end) or "each has its run"
        click.echo(f"nothing to do: {why}")


def _run_or_latest(cron: Client, reference: str) -> Run:
    if is_run_id(reference):
        return cron.runs.get(reference)
    try:
        latest = cron.latest_runs(reference, limit=1)
    except JobNotFound:
        raise click.ClickException(
            f"no run has the id {shown(reference)}, and no job has that id or name; "
            "`hermes-celery runs` shows the latest runs"
        ) from None
    if not latest:
        raise click.ClickException(f"job {shown(reference)} has no runs yet")
    return latest[0]


@contextmanager
def _server_stays(run_id: str) -> Iterator[None]:
    """Say what became of a run if the server goes away while a command waits for the run."""
    try:
        yield
    except StoreUnavailable as error:
        raise StoreUnavailable(
            f"{went_away(read_settings(), error)}; this command no longer waits, and the run goes "
            f"on without it: start the server, then `hermes-celery logs -f {run_id}`"
        ) from None


def _followed(cron: Client, run_id: str) -> Run:
    while not (item := cron.runs.get(run_id)).state.is_final:
        time.sleep(_POLL_SECONDS)
    return item


def _print_output(cron: Client, run_id: str) -> None:
    for stream, content in (
        (sys.stdout, cron.runs.output(run_id)),
        (sys.stderr, cron.runs.stderr(run_id)),
    ):
        stream.flush()
        stream.buffer.write(content)
        stream.flush()
        if content and not content.endswith(b"\n"):
            # A task's return value has no final newline. Stdout keeps the output byte for byte.
            click.echo(err=True)


def _ending(item: Run) -> str:
    """Describe in one line how a run ended, or its state so far."""
    if item.fault:
        return f"{item.id}: its record is unreadable: {item.fault}"
    if item.state is RunState.SUCCEEDED:
        return f"{item.job_name}: succeeded" + (" (silent)" if item.delivery == "silent" else "")
    why = item.why.split("\n")[0]
    return f"{item.job_name}: {item.state.value}" + (f": {why}" if why else "")


def _exit_code(item: Run) -> int:
    if item.state in (RunState.SUCCEEDED, RunState.SENT):
        return ExitCode.DONE
    code = item.exit_code
    return code if code is not None and 0 < code < 256 else ExitCode.FAILED
