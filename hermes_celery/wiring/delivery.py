"""Puts together what delivers: a process' deliverer, the address book, and their checks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hermes_celery.clock import ServerClock
from hermes_celery.core.job import JobSpec
from hermes_celery.core.targets import LOCAL, ORIGIN, parts_of
from hermes_celery.delivering.address_book import AddressBook
from hermes_celery.delivering.channel_apprise import AppriseChannel
from hermes_celery.delivering.channels import Channels
from hermes_celery.delivering.dead_man_switch import check_url
from hermes_celery.delivering.deliverer import Deliverer, DeliveryRules, DeliveryStores
from hermes_celery.delivering.outbox import redeliver as begin_again
from hermes_celery.delivering.template import check_template
from hermes_celery.errors import JobError, SettingsError
from hermes_celery.events import event
from hermes_celery.running.dotenv_files import dotenv
from hermes_celery.settings import Settings, process_environment
from hermes_celery.store import (
    Deliveries,
    Runs,
    check_run_id,
)
from hermes_celery.wiring.server import open_database, reachable_database

if TYPE_CHECKING:
    from hermes_celery.delivering.outbox import DeliveryMessages


_log = logging.getLogger(__name__)


def make_deliverer(settings: Settings) -> Deliverer:
    """What delivers in this process."""
    database = open_database(settings)
    return Deliverer(
        DeliveryStores.of(database),
        book=make_book(settings),
        channels=Channels(
            environment=delivery_environment(settings),
            files_dir=settings.output_dir,
            timeout_seconds=settings.delivery_timeout_seconds,
        ),
        rules=DeliveryRules(
            wrap=settings.wrap,
            first_wait_seconds=settings.delivery_wait_seconds,
            timeout_seconds=settings.delivery_timeout_seconds,
        ),
        clock=ServerClock(database.now_ms),
    )


def make_book(settings: Settings) -> AddressBook:
    """What `deliver` means on this machine."""
    return AddressBook(
        environment=delivery_environment(settings),
        names_path=settings.targets_path,
        home=settings.home,
        files_dir=settings.output_dir,
    )


def delivery_environment(settings: Settings) -> dict[str, str]:
    """The variables with tokens and home channels: Hermes' `.env`, and over it the environment."""
    return {**dotenv(settings.home, profile=""), **process_environment()}


def check_delivery(settings: Settings, spec: JobSpec) -> None:
    """Refuse a job whose targets, template or ping URL make no sense, as far as can be known here.

    Raises JobError, or SettingsError when targets.toml cannot be read.
    """
    for deliver in (spec.deliver, spec.failure_deliver):
        if deliver and not parts_of(deliver):
            raise JobError(f"deliver {deliver!r} names no target; give one, or local")
        if deliver and deliver not in ("local", "origin"):
            make_book(settings).check(deliver)
    if spec.template:
        check_template(spec.template)
    if spec.ping:
        check_url(spec.ping)


def check_alerts(settings: Settings, *, delivers_here: bool = True) -> None:
    """Refuse alerts that would reach nobody. Raises SettingsError.

    Where another machine delivers, what only that one must have is not missed here: apprise, and
    the names of targets.toml.
    """
    if settings.alerts == LOCAL:
        return
    try:
        if ORIGIN in parts_of(settings.alerts):
            raise JobError("alerts are about no job, so they have no origin")
        make_book(settings).check(settings.alerts)
    except JobError as error:
        text = f"HERMES_CELERY_ALERTS: {error}"
        if delivers_here or (AppriseChannel.is_installed() and settings.targets_path.exists()):
            raise SettingsError([text]) from None
        event(_log, "alerts.unsure", level=logging.WARNING, why=text)


def alerts_without_target(settings: Settings) -> list[str]:
    """What of the alerts means a place, and means none on this machine now."""
    return make_book(settings).open().without_target(settings.alerts, None)


def redeliver(
    settings: Settings, run_id: str, *, everywhere: bool, messages: DeliveryMessages
) -> None:
    """Deliver a run's output once more. Raises RunNotFound or JobError."""
    database = reachable_database(settings)
    begin_again(
        Runs(database).get(check_run_id(run_id)),
        Deliveries(database),
        messages,
        everywhere=everywhere,
        now_ms=database.now_ms(),
    )
