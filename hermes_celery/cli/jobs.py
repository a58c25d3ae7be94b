"""`add edit list show pause resume remove`: what people do with jobs."""

from __future__ import annotations

import shlex
from itertools import chain, islice
from typing import Any

import click

from hermes_celery.cli.field_options import field_options, take_fields
from hermes_celery.cli.options import json_option
from hermes_celery.cli.scope import project, read_settings, repeating
from hermes_celery.cli.screen import (
    JOB_COLUMNS,
    job_details,
    job_row,
    print_json,
    print_json_list,
    refused_row,
    shown,
)
from hermes_celery.cli.store_access import open_cron, open_cron_to_read, other_namespaces
from hermes_celery.cli.terminal import print_labelled, print_note, print_tables
from hermes_celery.client import Client
from hermes_celery.core.idle_fields import idle_notes
from hermes_celery.core.job import Job, JobState, UnreadableJob, name_key, stored_word_of, word_of
from hermes_celery.core.job_checks import request_of
from hermes_celery.core.replanning import why_over
from hermes_celery.errors import JobNotFound
from hermes_celery.settings import default_timezone

_TABLE_LIMIT = 100
_KEPT = "quarantine:* of the namespace"
_NO_JOBS = 'no jobs yet; add one: hermes-celery add "every 5m" --script NAME --no-agent'


_elsewhere = click.option(
    "--elsewhere",
    is_flag=True,
    help="Script and directory are on the workers, not on this machine.",
)


@click.command()
@click.argument("schedule")
@click.argument("prompt", required=False)
@field_options(without=("schedule", "prompt"))
@_elsewhere
@click.option("--paused", is_flag=True, help="Add it without starting its schedule.")
@json_option
def add(as_json: bool, paused: bool, elsewhere: bool, **typed: Any) -> None:
    """Add a job that runs on SCHEDULE.

    \b
    hermes-celery add "0 9 * * 1-5" "Summarise the news" --tz Europe/Berlin
    hermes-celery add "every 5m" --script disk.sh --no-agent --name "disk watchdog"
    hermes-celery add "in 30m" --script backup.sh --no-agent
    hermes-celery add "@hourly" --http POST https://example.com/hook --expect 202
    hermes-celery add "0 2 * * *" --task shop.report --kwargs '{"full": true}' --queue slow
    """
    request = request_of(take_fields(typed))
    job = open_cron().add(request, paused=paused, check_files=not elsewhere)
    _warn_of_call(job)
    _warn_of_idle(job)
    if as_json:
        print_json(job.as_json())
        return
    _warn_of_tokens(job)
    click.echo(f"added {job.id}  {job.name}  ({job.spec.schedule_display})")
    click.echo(_upcoming(job))


@click.command()
@click.argument("job")
@field_options()
@_elsewhere
@click.option(
    "--revision", type=int, help="Refuse if the job is no longer at this revision (see `show`)."
)
@json_option
def edit(job: str, as_json: bool, revision: int | None, elsewhere: bool, **typed: Any) -> None:
    """Change JOB: only what is given changes; '' clears a field, as in --group ''.

    What belongs to --http or --task is given together with it, and replaces it whole.
    """
    changes = take_fields(typed)
    if not changes:
        raise click.UsageError("nothing to change; give at least one option")
    cron = open_cron()
    before = cron.show(job).revision
    changed = cron.edit(job, changes, expected_revision=revision, check_files=not elsewhere)
    if "task" in changes:
        _warn_of_call(changed)
    _warn_of_idle(changed)
    if as_json:
        print_json(changed.as_json())
        return
    _warn_of_tokens(changed)
    verb = "nothing changed:" if changed.revision == before else "changed"
    click.echo(f"{verb} {changed.id}  {changed.name}  (revision {changed.revision})")
    click.echo(_upcoming(changed))


#: The states in the words that the table shows.
_STATE_WORDS = [word_of(state.value) for state in JobState]


@click.command("list")
@click.option("--name", default="", metavar="START", help="Names that begin so, by name.")
@click.option(
    "--state",
    # What JSON says is known, too.
    type=click.Choice(list(dict.fromkeys([*_STATE_WORDS, *(one.value for one in JobState)]))),
    metavar=f"[{'|'.join(_STATE_WORDS)}]",
)
@click.option("--after", metavar="JOB", help="What follows that job.")
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(0),
    help=f"0: all. Default: {_TABLE_LIMIT} in the table, all as JSON.",
)
@click.option("--all", "limit", flag_value=0, type=int, help="As --limit 0.")
@json_option
def list_jobs(
    name: str, state: str | None, after: str | None, limit: int | None, as_json: bool
) -> None:
    """List jobs, oldest first."""
    cron = open_cron_to_read()
    wanted = JobState(stored_word_of(state)) if state else None
    found = cron.find_jobs(name=name, state=wanted, after=after)
    # What is no job has neither state nor place among the jobs: it follows them all.
    refused = [] if state or after else [r for r in cron.refusals(name=name) if r.is_refused]
    if as_json:
        shown_jobs = (job.as_json() for job in islice(found, limit or None))
        print_json_list(chain(shown_jobs, (one.as_json() for one in refused)))
        return
    limit = _TABLE_LIMIT if limit is None else limit
    jobs = list(islice(found, limit)) if limit else found
    zone = default_timezone()
    print_tables(
        JOB_COLUMNS,
        chain((job_row(job, zone=zone) for job in jobs), map(refused_row, refused)),
        empty="no job is like that" if name or state or after else repeating(_no_jobs(cron)),
    )
    if isinstance(jobs, list) and next(found, None) is not None:
        count = None if state else cron.jobs.count_after(jobs[-1], name=name)
        click.echo(repeating(_more(jobs[-1], count, name=name, state=state, limit=limit)), err=True)


def _no_jobs(cron: Client) -> str:
    """What to say where there is none; the jobs that somebody looks for may be a project's."""
    others = [] if cron.jobs.count() else other_namespaces()
    if not others:
        return _NO_JOBS
    named = read_settings().namespace
    return (
        f"no jobs in namespace {named!r}; others on this server are {', '.join(others)}: "
        f"hermes-celery -N {others[-1]} list"
    )


def _more(last: Job | UnreadableJob, count: int | None, **options: str | int | None) -> str:
    """How many jobs follow the last that was shown, and what to type to see them."""
    words = ["hermes-celery", "list"]
    for option, value in options.items():
        if value and (option, value) != ("limit", _TABLE_LIMIT):
            words += [f"--{option}", str(value)]
    number = "more" if count is None else f"{count:,} more"
    return f"{number}: {shlex.join([*words, '--after', last.id])}  (--all: everything)"


@click.command()
@click.argument("job")
@json_option
def show(job: str, as_json: bool) -> None:
    """Show everything about JOB."""
    cron = open_cron_to_read()
    try:
        found = cron.jobs.look_up(job)
    except JobNotFound:
        _show_refused(cron, job, as_json=as_json)
        return
    if as_json:
        print_json(found.as_json())
        return
    if isinstance(found, UnreadableJob):
        raise click.ClickException(f"job {found.id} {found.name} is {found.fault}")
    told = [("declared", one.text) for one in cron.refusals() if one.job_id == found.id]
    for label, text in [*job_details(found, zone=default_timezone()), *told]:
        print_labelled(f"{label + ':':<14}", text)


def _show_refused(cron: Client, reference: str, *, as_json: bool) -> None:
    """What is known of a declared job that is none. Raises JobNotFound."""
    key = name_key(reference)
    for one in cron.refusals():
        if one.is_refused and key in (name_key(one.name), one.job_id):
            if as_json:
                print_json(one.as_json())
                return
            raise click.ClickException(one.text)
    raise JobNotFound(reference)


_everything = click.option("--all", "everything", is_flag=True, help="Every job, by one switch.")


@click.command()
@click.argument("job", required=False)
@_everything
@click.option("--reason", help="A note for whoever wonders.")
@json_option
def pause(job: str | None, everything: bool, reason: str | None, as_json: bool) -> None:
    """Stop the schedule of JOB, or with --all of every job; dispatched runs go on."""
    if _is_one_job(job, everything=everything):
        cron = open_cron()
        before = cron.show(job or "").revision
        paused = cron.pause(job or "", reason=reason)
        is_same = paused.revision == before
        verb = "nothing changed, it was paused before:" if is_same else "paused"
        _confirm(paused, verb=verb, as_json=as_json)
        return
    is_new = open_cron().pause_all(note=reason or "")
    if as_json:
        print_json({"everything": "paused", "changed": is_new})
        return
    done = "paused everything" if is_new else "everything was paused before"
    click.echo(repeating(f"{done}; `hermes-celery resume --all` goes on"))


@click.command()
@click.argument("job", required=False)
@_everything
@json_option
def resume(job: str | None, everything: bool, as_json: bool) -> None:
    """Let the schedule of JOB go on from now; what was missed stays missed.

    With --all the switch of `pause --all`; jobs that were paused one by one stay paused.
    """
    if _is_one_job(job, everything=everything):
        cron = open_cron()
        before = cron.show(job or "").revision
        resumed = cron.resume(job or "")
        is_same = resumed.revision == before
        verb = "nothing changed, it was not paused:" if is_same else "resumed"
        _confirm(resumed, verb=verb, as_json=as_json)
        return
    is_new = open_cron().resume_all()
    if as_json:
        print_json({"everything": "resumed", "changed": is_new})
    elif is_new:
        click.echo("resumed everything that was not paused by itself")
    else:
        click.echo("nothing changed: everything was not paused; `resume JOB` is for one job")


def _is_one_job(job: str | None, *, everything: bool) -> bool:
    if everything == (job is not None):
        raise click.UsageError("give either a job or --all")
    return not everything


@click.command()
@click.argument("job")
@click.option("--declared", is_flag=True, help="Also one that a project declares which is no more.")
@json_option
def remove(job: str, declared: bool, as_json: bool) -> None:
    """Remove JOB; its runs stay as history."""
    removed = open_cron().remove(job, declared=declared)
    _confirm(removed, verb="removed", as_json=as_json)


def _warn_of_call(job: Job) -> None:
    """A task that the app of `-A` does not have, or with other arguments, may be elsewhere."""
    app = project()
    if app is None or job.spec.task is None:
        return
    # Only a project's own tasks are asked of Celery; the other verbs here do without it.
    from hermes_celery.celery_app.declarer import doubt_about_call
    from hermes_celery.celery_app.project_app import import_tasks

    fault = import_tasks(app)
    why = (
        f"its tasks cannot be imported here ({fault})"
        if fault
        else doubt_about_call(app, job.spec.task)
    )
    if why:
        print_note(f"Note: job {job.name!r} may not work: {why}")


def _warn_of_idle(job: Job) -> None:
    """What is set and does nothing is often meant for something else."""
    for note in idle_notes(job.spec):
        click.echo(f"Note: {note}", err=True)


def _warn_of_tokens(job: Job) -> None:
    """A URL in a job is read by whoever can read the job's store."""
    given = f"{job.spec.deliver},{job.spec.failure_deliver or ''}".replace("file://", "")
    if "://" in given:
        print_note(
            "Note: the job holds a URL with its tokens. A name from targets.toml keeps them out: "
            f"{read_settings().targets_path}"
        )


def _confirm(job: Job | UnreadableJob, *, verb: str, as_json: bool) -> None:
    if as_json:
        print_json(job.as_json())
        return
    click.echo(f"{verb} {job.id}  {job.name}".rstrip())
    if isinstance(job, UnreadableJob):
        print_note(f"It could not be read; what was stored is kept under {_KEPT}")
    elif verb == "resumed":
        click.echo(_upcoming(job))


def _upcoming(job: Job) -> str:
    if job.state is JobState.COMPLETED:
        return repeating(f"it is completed: {why_over(job)}")
    if job.state is not JobState.SCHEDULED:
        return repeating(
            f"it is {word_of(job.state.value)}; `hermes-celery resume {job.id}` starts its schedule"
        )
    zone = default_timezone()
    return f"next run {shown(job.next_run_at, zone=zone)} ({zone})"
