"""Builds a `Client`: its records, the checks of a job, and the message builder."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hermes_celery.celery_app.app_settings import app_settings, default_zone
from hermes_celery.celery_app.broker import key_prefix
from hermes_celery.client import Client, JobChecks, NamespaceRecords, RunMessages
from hermes_celery.clock import ServerClock
from hermes_celery.core.arguments import of_kind
from hermes_celery.core.job import JobSpec
from hermes_celery.running.script import check_local_files
from hermes_celery.settings import Settings, broker_variables, read_settings
from hermes_celery.store import Database, Declarations, DueIndex, ForeignQueues, Jobs, Runs
from hermes_celery.store.queue_load import base_of
from hermes_celery.wiring.messages import make_messages
from hermes_celery.wiring.server import reachable_database, readable_database

if TYPE_CHECKING:
    from hermes_celery.celery_app.types import Celery


def check_broker(settings: Settings) -> None:
    """Refuse Celery variables that point our own app to another server. Raises SettingsError."""
    if broker_variables():
        # Imported here to start fast: Celery costs 0.2 s, and most commands do not need it.
        from hermes_celery.wiring.own_app import make_app

        app_settings(make_app(settings))


def open_cron(settings: Settings | None = None, *, app: Celery | None = None) -> Client:
    """Return a client for jobs and runs; without `settings`, from the environment.

    `app` is the Celery app whose workers perform the runs; by default, our own. Raises
    SettingsError or StoreError, and JobError for an argument of another class.
    """
    settings = (
        read_settings() if settings is None else of_kind(settings, name="settings", kind=Settings)
    )
    if app is not None:
        # Imported here to start fast: Celery costs 0.2 s, and whoever has an app has paid it.
        from hermes_celery.celery_app.types import Celery

        of_kind(app, name="app", kind=Celery)
    return _client(settings, reachable_database(settings), app=app)


def open_cron_to_read(settings: Settings, *, app: Celery | None = None) -> Client:
    """Return a client for commands that only read. Raises SettingsError or StoreError.

    It also opens a store written by a newer version, and logs a warning.
    """
    return _client(settings, readable_database(settings), app=app)


def _client(settings: Settings, database: Database, *, app: Celery | None) -> Client:
    declarations = Declarations(database)
    return Client(
        NamespaceRecords(jobs=Jobs(database), runs=Runs(database), due=DueIndex(database)),
        clock=ServerClock(database.now_ms),
        checks=JobChecks(
            default_timezone=default_zone(settings, app),
            files=lambda spec: check_local_files(
                spec,
                scripts_dir=settings.scripts_dir,
                interpreter_dirs=settings.interpreter_dirs,
            ),
            delivery=lambda spec: _check_delivery(settings, spec),
        ),
        messages=RunMessages(
            builder=lambda: make_messages(settings, app=app),
            routes_tasks=app is not None,
            # Beats of our own app declare nothing.
            is_a_projects=lambda: bool(declarations.living(now_ms=database.now_ms())),
            why_sent=why_sent_of(database, app),
        ),
        refusals=declarations.refusals,
    )


def why_sent_of(database: Database, app: Celery | None) -> Callable[[JobSpec, str], str]:
    """Return a function from job and queue to why nobody follows the job's runs; "" if workers do.

    It reads what the leader stored about queues whose workers do not report.
    """
    prefix = "" if app is None else key_prefix(app)

    def why_sent(spec: JobSpec, queue: str) -> str:
        if spec.task is None:
            return ""
        name = base_of(queue).removeprefix(prefix)
        return ForeignQueues(database).why_sent(name, now_ms=database.now_ms())

    return why_sent


def _check_delivery(settings: Settings, spec: JobSpec) -> None:
    # Imported here to start fast: commands that only read check no delivery.
    from hermes_celery.wiring.delivery import check_delivery

    check_delivery(settings, spec)
