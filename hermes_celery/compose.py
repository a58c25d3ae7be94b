"""The composition root: settings in, collaborators out. Nothing is decided here.

Celery is imported only by what needs it, so that commands which only read Redis start fast.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from hermes_celery import embedded
from hermes_celery.clock import ServerClock
from hermes_celery.cron import Cron
from hermes_celery.errors import JobError, StoreUnavailable, StoreUnsuitable
from hermes_celery.instant import from_ms, iso
from hermes_celery.job import JobSpec
from hermes_celery.keys import Keys
from hermes_celery.log import event
from hermes_celery.runners.script import locate
from hermes_celery.settings import Settings, read_settings, without_password
from hermes_celery.store import (
    Database,
    DueIndex,
    History,
    Jobs,
    Retention,
    Runs,
    connect,
)
from hermes_celery.witness import Witness

if TYPE_CHECKING:
    from celery import Celery

    from hermes_celery.beat import Beat
    from hermes_celery.runner import Runner
    from hermes_celery.tick import Messages

_log = logging.getLogger(__name__)


def redis_url(settings: Settings) -> str:
    """The URL of the server that these settings mean."""
    return settings.redis_url or embedded.url(settings.state_dir)


def open_database(settings: Settings) -> Database:
    """The store's server; connects when first used."""
    return Database(connect(redis_url(settings)), keys=Keys(namespace=settings.namespace))


def reachable_database(settings: Settings) -> Database:
    """The store's server, checked.

    Raises StoreUnavailable or StoreUnsuitable that say what to do.
    """
    database = open_database(settings)
    try:
        database.check()
    except StoreUnavailable as error:
        raise StoreUnavailable(unreachable(settings, error)) from None
    except StoreUnsuitable as error:
        shown = without_password(redis_url(settings))
        raise StoreUnsuitable(f"the server at {shown} does not serve: {error}") from None
    return database


def unreachable(settings: Settings, error: StoreUnavailable) -> str:
    """What to tell a person when there is no server."""
    shown = without_password(redis_url(settings))
    advice = (
        "start it, or unset HERMES_REDIS_URL to use the embedded Valkey of `hermes-celery up`"
        if settings.redis_url
        else "start one with `hermes-celery up`, or set HERMES_REDIS_URL to a Redis of yours"
    )
    return f"no Redis at {shown} ({error}); {advice}"


def open_cron(settings: Settings | None = None) -> Cron:
    """The verbs on jobs and runs, from the environment. Raises SettingsError or StoreError."""
    settings = settings or read_settings()
    database = reachable_database(settings)
    return Cron(
        jobs=Jobs(database),
        runs=Runs(database),
        due=DueIndex(database),
        clock=ServerClock(database.now_ms),
        messages=lambda: _messages(settings),
        default_timezone=settings.timezone,
        check_files=lambda spec: check_files(spec, scripts_dir=settings.scripts_dir),
    )


def check_files(spec: JobSpec, *, scripts_dir: Path) -> None:
    """Refuse a job whose script or working directory is not on this machine.

    Raises ScriptError or JobError.
    """
    if spec.script:
        locate(scripts_dir, spec.script)
    if spec.workdir:
        path = Path(spec.workdir)
        if not path.exists():
            raise JobError(f"Cron workdir does not exist: {path}")
        if not path.is_dir():
            raise JobError(f"Cron workdir is not a directory: {path}")


def make_beat(app: Celery, *, owner: str) -> Beat:
    """A beat for this app's namespace."""
    from hermes_celery.beat import Beat
    from hermes_celery.dispatch import Dispatch
    from hermes_celery.lease import Lease
    from hermes_celery.store import Waker

    settings: Settings = app.conf.hermes_settings
    database = open_database(settings)
    witness = Witness(settings.state_dir, database)
    clock = ServerClock(database.now_ms)
    return Beat(
        lease=Lease(database, owner=owner, clock=clock),
        due_index=DueIndex(database),
        jobs=Jobs(database),
        runs=Runs(database),
        history=make_history(settings, database),
        messages=Dispatch(app),
        waker=Waker(database),
        clock=clock,
        on_lead=lambda: _look_for_loss(witness),
    )


def make_history(settings: Settings, database: Database) -> History:
    """What forgets runs and completed jobs."""
    retention = Retention(
        runs_per_job=settings.keep_runs,
        run_days=settings.keep_days,
        completed_job_days=settings.keep_completed_days,
    )
    return History(database, retention=retention)


def _look_for_loss(witness: Witness) -> None:
    """Say loudly that a server came back without its memory."""
    seen = witness.missing()
    if seen is not None:
        event(
            _log,
            "jobs.gone",
            level=logging.ERROR,
            jobs=seen.jobs,
            seen_at=iso(from_ms(seen.at_ms)),
            why="the server lost its memory: turn its append-only file on, or restore a copy",
        )
    witness.note()


def make_runner(settings: Settings) -> Runner:
    """What performs runs in this worker process."""
    from hermes_celery.pulse import Pulse
    from hermes_celery.runner import Runner
    from hermes_celery.runners import make_work

    database = open_database(settings)
    clock = ServerClock(database.now_ms)
    runs = Runs(database)
    return Runner(runs, pulse=Pulse(runs, clock=clock), work_for=make_work(settings), clock=clock)


def shown_url(app: Celery) -> str:
    """The server of an app, without its password."""
    return without_password(redis_url(app.conf.hermes_settings))


def _messages(settings: Settings) -> Messages:
    from hermes_celery.app import make_app
    from hermes_celery.dispatch import Dispatch

    return Dispatch(make_app(settings))
