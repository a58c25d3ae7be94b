"""`add edit list show pause resume remove`: the commands for jobs."""

from __future__ import annotations

import shlex
from itertools import chain, islice
from typing import Any

import click

from hermes_celery.cli.field_options import field_options, take_fields
from hermes_celery.cli.options import ScheduleCommand, json_option
from hermes_celery.cli.scope import project, read_settings, with_scope
from hermes_celery.cli.screen import (
    JOB_COLUMNS,
    job_details,
    job_row,
    print_json,
    print_json_list,
    refused_row,
    time_text,
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
    help="Do not check the script and the working directory on this machine: they are on the "
    "workers.",
)


@click.command(cls=ScheduleCommand)
@click.argument("schedule")
@click.argument("prompt", required=False)
@field_options(without=("schedule", "prompt"))
@_elsewhere
@click.option("--paused", is_flag=True, help="Add the job paused; `resume` starts its schedule.")
@json_option
def add(as_json: bool, paused: bool, elsewhere: bool, **typed: Any) -> None:
    """Add a job that runs on SCHEDULE.

    SCHEDULE is a cron expression, a phrase ('every monday 9am'), an interval ('every 30m') or a
    time ('in 2h', '2027-03-28T14:00'); `explain` says what it means. PROMPT is the text for the
    agent; a job with --script and --no-agent, --http or --task needs none.

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


@click.command(cls=ScheduleCommand)
@click.argument("job")
@field_options()
@_elsewhere
@click.option(
    "--revision",
    metavar="N",
    type=click.IntRange(1),
    help="Refuse if the job is not at this revision any more (see `show`).",
)
@json_option
def edit(job: str, as_json: bool, revision: int | None, elsewhere: bool, **typed: Any) -> None:
    """Change the given fields of JOB; all other fields stay as they are.

    '' clears a field, as in --group ''. The options that belong to --http or --task are given
    together with it, and replace the old request or call as a whole.
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


#: The states, named as in the table.
_STATE_WORDS = [word_of(state.value) for state in JobState]


@click.command("list")
@click.option(
    "--name",
    default="",
    metavar="START",
    help="List only jobs whose names begin with START (ignoring case), sorted by name.",
)
@click.option(
    "--state",
    # The words of JSON are accepted, too.
    type=click.Choice(list(dict.fromkeys([*_STATE_WORDS, *(one.value for one in JobState)]))),
    metavar=f"[{'|'.join(_STATE_WORDS)}]",
    help="List only jobs in this state.",
)
@click.option("--after", metavar="JOB", help="List only the jobs that follow this one.")
@click.option(
    "--limit",
    "-n",
    metavar="N",
    type=click.IntRange(0),
    help=f"List at most this many jobs; 0 lists all. Default: {_TABLE_LIMIT}, with --json all.",
)
@click.option("--all", "everything", is_flag=True, help="List all jobs; same as --limit 0.")
@json_option
def list_jobs(
    name: str,
    state: str | None,
    after: str | None,
    limit: int | None,
    everything: bool,
    as_json: bool,
) -> None:
    """List jobs, oldest first.

    Declared jobs that were refused come last.
    """
    limit = 0 if everything else limit
    cron = open_cron_to_read()
    wanted = JobState(stored_word_of(state)) if state else None
    found = cron.find_jobs(name=name, state=wanted, after=after)
    # A refused declaration has neither a state nor a place in the order: it comes last.
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
        empty="no job matches" if name or state or after else with_scope(_no_jobs(cron)),
    )
    if isinstance(jobs, list) and next(found, None) is not None:
        count = None if state else cron.jobs.count_after(jobs[-1], name=name)
        click.echo(
            with_scope(_more(jobs[-1], count, name=name, state=state, limit=limit)), err=True
        )


def _no_jobs(cron: Client) -> str:
    """Return the text for an empty namespace; it names others, where a project's jobs may be."""
    others = [] if cron.jobs.count() else other_namespaces()
    if not others:
        return _NO_JOBS
    named = read_settings().namespace
    return (
        f"no jobs in namespace {named!r}; others on this server are {', '.join(others)}: "
        f"hermes-celery -N {others[-1]} list"
    )


def _more(last: Job | UnreadableJob, count: int | None, **options: str | int | None) -> str:
    """Return how many jobs follow the last shown one, and the command that lists them."""
    words = ["hermes-celery", "list"]
    for option, value in options.items():
        if value and (option, value) != ("limit", _TABLE_LIMIT):
            words += [f"--{option}", str(value)]
    number = "more" if count is None else f"{count:,} more"
    return f"{number}: {shlex.join([*words, '--after', last.id])}  (--all lists all)"


@click.command()
@click.argument("job")
@json_option
def show(job: str, as_json: bool) -> None:
    """Show all fields and the state of JOB."""
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
    """Print why a declared job was refused, and exit with 1. Raises JobNotFound."""
    key = name_key(reference)
    for one in cron.refusals():
        if one.is_refused and key in (name_key(one.name), one.job_id):
            if as_json:
                print_json(one.as_json())
                return
            raise click.ClickException(one.text)
    raise JobNotFound(reference)


_everything = click.option(
    "--all",
    "everything",
    is_flag=True,
    help="All jobs, by one switch for the whole namespace.",
)


@click.command()
@click.argument("job", required=False)
@_everything
@click.option("--reason", help="A note on why; `show` and `status` print it.")
@json_option
def pause(job: str | None, everything: bool, reason: str | None, as_json: bool) -> None:
    """Stop the schedule of JOB, or with --all of every job; dispatched runs continue."""
    if _is_one_job(job, everything=everything):
        cron = open_cron()
        before = cron.show(job or "").revision
        paused = cron.pause(job or "", reason=reason)
        is_same = paused.revision == before
        verb = "nothing changed, already paused:" if is_same else "paused"
        _confirm(paused, verb=verb, as_json=as_json)
        return
    is_new = open_cron().pause_all(note=reason or "")
    if as_json:
        print_json({"everything": "paused", "changed": is_new})
        return
    done = "paused all jobs" if is_new else "nothing changed, all jobs were already paused"
    click.echo(with_scope(f"{done}; `hermes-celery resume --all` resumes them"))


@click.command()
@click.argument("job", required=False)
@_everything
@json_option
def resume(job: str | None, everything: bool, as_json: bool) -> None:
    """Resume the schedule of JOB from now on; occurrences missed in the pause do not run.

    With --all it turns off the switch of `pause --all`. Jobs that were paused one by one stay
    paused.
    """
    if _is_one_job(job, everything=everything):
        cron = open_cron()
        before = cron.show(job or "").revision
        resumed = cron.resume(job or "")
        is_same = resumed.revision == before
        verb = "nothing changed, not paused:" if is_same else "resumed"
        _confirm(resumed, verb=verb, as_json=as_json)
        return
    is_new = open_cron().resume_all()
    if as_json:
        print_json({"everything": "resumed", "changed": is_new})
    elif is_new:
        click.echo("resumed all jobs, except those that were paused one by one")
    else:
        click.echo("nothing changed: no `pause --all` is in force; to resume one job: `resume JOB`")


def _is_one_job(job: str | None, *, everything: bool) -> bool:
    if everything == (job is not None):
        raise click.UsageError("give either a job or --all")
    return not everything


@click.command()
@click.argument("job")
@click.option(
    "--declared",
    is_flag=True,
    help="Remove JOB although a project declares it; for a project that no longer exists.",
)
@json_option
def remove(job: str, declared: bool, as_json: bool) -> None:
    """Remove JOB; its runs are kept as history."""
    removed = open_cron().remove(job, declared=declared)
    _confirm(removed, verb="removed", as_json=as_json)


def _warn_of_call(job: Job) -> None:
    """Warn when the app of `-A` lacks the job's task or the task takes other arguments.

    It is no error: the workers may have another version of the code.
    """
    app = project()
    if app is None or job.spec.task is None:
        return
    # Imported here to start fast: the other commands need no Celery.
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
    """Warn of fields that are set but have no effect: they are often mistaken for others."""
    for note in idle_notes(job.spec):
        click.echo(f"Note: {note}", err=True)


def _warn_of_tokens(job: Job) -> None:
    """Warn of a delivery URL in the job: everyone who can read the store can read its tokens."""
    given = f"{job.spec.deliver},{job.spec.failure_deliver or ''}".replace("file://", "")
    if "://" in given:
        print_note(
            "Note: the job stores a URL with its tokens. To keep them out of the store, give the "
            f"URL a name in {read_settings().targets_path} and deliver to that name"
        )


def _confirm(job: Job | UnreadableJob, *, verb: str, as_json: bool) -> None:
    if as_json:
        print_json(job.as_json())
        return
    click.echo(f"{verb} {job.id}  {job.name}".rstrip())
    if isinstance(job, UnreadableJob):
        print_note(f"Its record was unreadable; it is kept under {_KEPT}")
    elif verb == "resumed":
        click.echo(_upcoming(job))


def _upcoming(job: Job) -> str:
    if job.state is JobState.COMPLETED:
        return with_scope(f"the job is completed: {why_over(job)}")
    if job.state is not JobState.SCHEDULED:
        return with_scope(
            f"the job is {word_of(job.state.value)}; `hermes-celery resume {job.id}` starts its "
            "schedule"
        )
    zone = default_timezone()
    return f"next run {time_text(job.next_run_at, zone=zone)} ({zone})"
