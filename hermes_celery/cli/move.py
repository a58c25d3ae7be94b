"""`move`: take jobs along from another namespace of the same server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import click

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
    Moved.RUNNING: "not moved: a worker performs one of its runs; try again when that has ended",
    Moved.THERE: "is there already; it was taken off the other namespace",
    Moved.BUSY: "not moved: somebody changes it at this moment; try again",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What became of one job."""

    job: Job | UnreadableJob
    #: As JSON says it: a word of `Moved`, or "broken".
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
    help="Where they are now. Default: hermes, where version 0.1.0 kept every project's jobs.",
)
@click.option("--force", is_flag=True, help="Also into a namespace that no beat has served yet.")
@json_option
def move(jobs: tuple[str, ...], source: str, force: bool, as_json: bool) -> None:
    """Move JOBs here from another namespace, with their runs, paused state and incidents.

    `hermes-celery -N shop move backup` takes the job `backup` of the namespace `hermes` into that
    of the project `shop`, whose beat and workers run it from then on. Nothing moves while programs
    of version 0.1.0 are where the jobs are.
    """
    settings = read_settings()
    try:
        checked_namespace(source)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--from") from None
    if settings.namespace == source:
        raise click.UsageError(
            f"the jobs are in namespace {source!r} already; say where to: "
            "hermes-celery -N NAMESPACE move JOB..."
        )
    target = reachable_database(settings)
    origin = open_database(replace(settings, namespace=source))
    if not force:
        _refuse_unknown(settings, target)
    _refuse_older(origin, target)
    origin_jobs = Jobs(origin)
    # Each once, and all of them before the first one moves.
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
        raise SystemExit(1)


def _refuse_unknown(settings: Settings, target: Database) -> None:
    """A namespace that no beat serves and no list names would keep the jobs in silence."""
    known = known_namespaces(settings)
    if settings.namespace in known or _has_beat(target):
        return
    raise click.ClickException(
        f"no beat serves namespace {settings.namespace!r}, and no project has it: check the name "
        f"(known here: {', '.join(known)}), or start the project's beat first; --force moves anyway"
    )


def _has_beat(database: Database) -> bool:
    formats, now_ms = Formats(database), database.now_ms()
    names = [*formats.living(now_ms=now_ms), *formats.older_than(FORMAT, now_ms=now_ms)]
    return any(name.startswith(("beat ", "a beat")) for name in names)


def _refuse_older(origin: Database, target: Database) -> None:
    """Workers of 0.1.0 throw messages away whose runs they cannot find; its beats declare anew."""
    now_ms = target.now_ms()
    ours = Formats(target).living(now_ms=now_ms)
    older = [name for name in Formats(origin).older_than(FORMAT, now_ms=now_ms) if name not in ours]
    if older:
        raise click.ClickException(
            f"programs of version 0.1.0 are in namespace {origin.keys.namespace!r} "
            f"({', '.join(older)}), which would throw messages of moved jobs away; nothing was "
            "moved: stop them, and try again ten seconds later"
        )


def _prepare(mover: Mover, settings: Settings, target: Database, *, source: str) -> None:
    """Name the namespace where all others are named, and pause it where the other one is."""
    here = settings.namespace
    shared = open_database(replace(settings, namespace=DEFAULT_NAMESPACE))
    if here != DEFAULT_NAMESPACE:
        # A user who may not look there is one of a namespace that a beat serves.
        with suppress(StoreError):
            Neighbours(shared, namespace=here).enter()
    if mover.follow_switch(now_ms=target.now_ms()):
        print_note(
            f"everything is paused in namespace {source!r}, and now in {here!r} too; "
            f"`hermes-celery -N {here} resume --all` goes on"
        )


def _moved(
    mover: Mover,
    jobs: Iterable[Job | UnreadableJob],
    target: Database,
    *,
    failed: list[_Done],
) -> Iterator[_Done]:
    """Move them one by one; those that stay are in `failed` as well."""
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
