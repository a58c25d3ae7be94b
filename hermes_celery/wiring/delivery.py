"""Builds and checks what delivers: the deliverer of a process, and the address book."""

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
from hermes_celery.errors import JobError, SettingsError, shown
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
    """Return the deliverer of this process."""
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
    """Return the address book, which resolves `deliver` on this machine."""
    return AddressBook(
        environment=delivery_environment(settings),
        names_path=settings.targets_path,
        home=settings.home,
        files_dir=settings.output_dir,
    )


def delivery_environment(settings: Settings) -> dict[str, str]:
    """Return the variables with tokens and home channels.

    The process environment overrides Hermes' `.env`.
    """
    return {**dotenv(settings.home, profile=""), **process_environment()}


def check_delivery(settings: Settings, spec: JobSpec) -> None:
    """Refuse a job whose targets, template or ping URL are invalid.

    Checks what this machine can know. Raises JobError, or SettingsError when targets.toml is
    unreadable.
    """
    for deliver in (spec.deliver, spec.failure_deliver):
        if deliver and not parts_of(deliver):
            raise JobError(f"deliver {shown(deliver)} names no target; give one, or local")
        if deliver and deliver not in ("local", "origin"):
            make_book(settings).check(deliver)
    if spec.template:
        check_template(spec.template)
    if spec.ping:
        check_url(spec.ping)


def check_alerts(settings: Settings, *, delivers_here: bool = True) -> None:
    """Refuse alerts that would reach nobody. Raises SettingsError.

    If another machine delivers, apprise and the names of targets.toml are needed only there, so
    their absence here is logged and not refused.
    """
    if settings.alerts == LOCAL:
        return
    try:
        if ORIGIN in parts_of(settings.alerts):
            raise JobError("alerts belong to no job and so have no origin; name another target")
        make_book(settings).check(settings.alerts)
    except JobError as error:
        text = f"HERMES_CELERY_ALERTS: {error}"
        if delivers_here or (AppriseChannel.is_installed() and settings.targets_path.exists()):
            raise SettingsError([text]) from None
        event(_log, "alerts.unsure", level=logging.WARNING, why=text)


def alerts_without_target(settings: Settings) -> list[str]:
    """Return the names in the alerts' targets that resolve to no place on this machine now."""
    return make_book(settings).open().without_target(settings.alerts, None)


def redeliver(
    settings: Settings, run_id: str, *, everywhere: bool, messages: DeliveryMessages
) -> None:
    """Deliver a run's output again. Raises RunNotFound or JobError."""
    database = reachable_database(settings)
    begin_again(
        Runs(database).get(check_run_id(run_id)),
        Deliveries(database),
        messages,
        everywhere=everywhere,
        now_ms=database.now_ms(),
    )
