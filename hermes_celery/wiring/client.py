"""Puts together a `Client`: records, what a job must pass here, and where messages come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hermes_celery.celery_app.app_settings import app_settings, default_zone
from hermes_celery.celery_app.broker import key_prefix
from hermes_celery.client import Client, JobChecks, NamespaceRecords, RunMessages
from hermes_celery.clock import ServerClock
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
    """Refuse variables that would lead our own app to another server. Raises SettingsError."""
    if broker_variables():
        # Celery costs 0.2 s that most commands need not pay.
        from hermes_celery.wiring.own_app import make_app

        app_settings(make_app(settings))


def open_cron(settings: Settings | None = None, *, app: Celery | None = None) -> Client:
    """The verbs on jobs and runs, from the environment. Raises SettingsError or StoreError.

    `app` is the Celery app whose workers perform the runs; ours, if none is given.
    """
    settings = settings or read_settings()
    return _client(settings, reachable_database(settings), app=app)


def open_cron_to_read(settings: Settings, *, app: Celery | None = None) -> Client:
    """The verbs for those that only read. Raises SettingsError, StoreError.

    They work beside what a newer program has stored, with a warning.
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
    """What is stored of queues whose workers do not report."""
    prefix = "" if app is None else key_prefix(app)

    def why_sent(spec: JobSpec, queue: str) -> str:
        if spec.task is None:
            return ""
        name = base_of(queue).removeprefix(prefix)
        return ForeignQueues(database).why_sent(name, now_ms=database.now_ms())

    return why_sent


def _check_delivery(settings: Settings, spec: JobSpec) -> None:
    # Here to start fast: commands that read check no delivery.
    from hermes_celery.wiring.delivery import check_delivery

    check_delivery(settings, spec)
