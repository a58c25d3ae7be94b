"""`move`: move jobs from another namespace of the same server into this one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import click

from hermes_celery.cli.exit_codes import ExitCode
from hermes_celery.cli.options import json_option
from hermes_celery.cli.scope import read_settings
from hermes_celery.cli.screen import print_json_list
from hermes_celery.cli.store_access import known_namespaces
from hermes_celery.cli.terminal import print_note
from hermes_celery.core.job import Job, UnreadableJob
from hermes_celery.errors import RecordBroken, StoreError
from hermes_celery.settings import DEFAULT_NAMESPACE, Settings, checked_namespace
from hermes_celery.store import FORMAT, Database, Formats, Jobs, Moved, Mover, Neighbours
from hermes_celery.wiring.server import open_database, reachable_database

_WORDS = {
    Moved.OK: "moved",
    Moved.RUNNING: "not moved: one of its runs is running; try again when it has ended",
    Moved.THERE: "was already in this namespace; removed from the other one",
    Moved.BUSY: "not moved: it is being changed at this moment; try again",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """The outcome for one job."""

    job: Job | UnreadableJob
    #: The outcome in JSON: a word of `Moved`, or "broken".
    word: str
    text: str

    @property
    def is_moved(self) -> bool:
        return self.word in (Moved.OK, Moved.THERE)

    @property
    def line(self) -> str:
        return "  ".join(filter(None, (self.job.id, self.job.name, self.text)))

    @property
    def row(self) -> dict[str, str]:
        row = {"id": self.job.id, "name": self.job.name, "moved": self.word}
        return row if self.is_moved else row | {"why": self.text}


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option(
    "--from",
    "source",
    default=DEFAULT_NAMESPACE,
    metavar="NAME",
    help="The namespace that the jobs are in now. Default: hermes, where version 0.1.0 kept the "
    "jobs of every project.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Move even into a namespace that no beat has served yet.",
)
@json_option
def move(jobs: tuple[str, ...], source: str, force: bool, as_json: bool) -> None:
    """Move JOBs from another namespace into this one, with runs, paused state and incidents.

    `hermes-celery -N shop move backup` moves the job `backup` from the namespace `hermes` to that
    of the project `shop`, whose beat and workers run it from then on. Stop all programs of version
    0.1.0 in the old namespace first; nothing moves while one runs there.
    """
    settings = read_settings()
    try:
        checked_namespace(source)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--from") from None
    if settings.namespace == source:
        raise click.UsageError(
            f"the source and the target are both namespace {source!r}; name the target: "
            "hermes-celery -N NAMESPACE move JOB..."
        )
    target = reachable_database(settings)
    origin = open_database(replace(settings, namespace=source))
    if not force:
        _refuse_unknown(settings, target)
    _refuse_older(origin, target)
    origin_jobs = Jobs(origin)
    # Look up every job, each once, before the first one moves.
    found = {job.id: job for job in map(origin_jobs.look_up, jobs)}
    mover = Mover(origin, target)
    _prepare(mover, settings, target, source=source)
    failed: list[_Done] = []
    rows = _moved(mover, found.values(), target, failed=failed)
    if as_json:
        print_json_list(one.row for one in rows)
    else:
        for one in rows:
            click.echo(one.line)
    if failed:
        raise SystemExit(ExitCode.FAILED)


def _refuse_unknown(settings: Settings, target: Database) -> None:
    """Refuse a namespace that no beat serves and no list names: its jobs would never run."""
    known = known_namespaces(settings)
    if settings.namespace in known or _has_beat(target):
        return
    raise click.ClickException(
        f"no beat serves namespace {settings.namespace!r}, and no project uses it: check the name "
        f"(known here: {', '.join(known)}), or start the project's beat first; --force moves anyway"
    )


def _has_beat(database: Database) -> bool:
    formats, now_ms = Formats(database), database.now_ms()
    names = [*formats.living(now_ms=now_ms), *formats.older_than(FORMAT, now_ms=now_ms)]
    return any(name.startswith(("beat ", "a beat")) for name in names)


def _refuse_older(origin: Database, target: Database) -> None:
    """Refuse to move while programs of version 0.1.0 serve the old namespace.

    Their workers discard messages whose runs they cannot find, and their beats declare the jobs
    again.
    """
    now_ms = target.now_ms()
    ours = Formats(target).living(now_ms=now_ms)
    older = [name for name in Formats(origin).older_than(FORMAT, now_ms=now_ms) if name not in ours]
    if older:
        raise click.ClickException(
            f"programs of version 0.1.0 serve namespace {origin.keys.namespace!r} "
            f"({', '.join(older)}) and would discard messages of moved jobs; nothing was moved. "
            "Stop them, and try again ten seconds later"
        )


def _prepare(mover: Mover, settings: Settings, target: Database, *, source: str) -> None:
    """Enter the namespace in the list of namespaces; pause it if the other one is paused."""
    here = settings.namespace
    shared = open_database(replace(settings, namespace=DEFAULT_NAMESPACE))
    if here != DEFAULT_NAMESPACE:
        # A user without access to the shared namespace has one that a beat serves already.
        with suppress(StoreError):
            Neighbours(shared, namespace=here).enter()
    if mover.follow_switch(now_ms=target.now_ms()):
        print_note(
            f"all jobs are paused in namespace {source!r}, and now in {here!r} too; "
            f"`hermes-celery -N {here} resume --all` resumes them"
        )


def _moved(
    mover: Mover,
    jobs: Iterable[Job | UnreadableJob],
    target: Database,
    *,
    failed: list[_Done],
) -> Iterator[_Done]:
    """Move the jobs one by one and yield each outcome; append those not moved to `failed`."""
    for job in jobs:
        done = _move_one(mover, job, now_ms=target.now_ms())
        if not done.is_moved:
            failed.append(done)
        yield done


def _move_one(mover: Mover, job: Job | UnreadableJob, *, now_ms: int) -> _Done:
    if isinstance(job, UnreadableJob):
        return _Done(job=job, word="broken", text=f"not moved: {job.key} {job.what}")
    try:
        word = mover.move(job, now_ms=now_ms)
    except RecordBroken as error:
        return _Done(job=job, word="broken", text=f"not moved: {error}")
    return _Done(job=job, word=word.value, text=_WORDS[word])
