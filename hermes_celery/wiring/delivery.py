"""The composition root of deliveries: settings in, collaborators out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from hermes_celery.clock import Clock, ServerClock
from hermes_celery.core.job import JobSpec
from hermes_celery.core.targets import LOCAL, ORIGIN, parts_of
from hermes_celery.delivering.address_book import AddressBook
from hermes_celery.delivering.beat_watchdog import BeatWatchdog
from hermes_celery.delivering.broken_records import BrokenRecords
from hermes_celery.delivering.channel_apprise import AppriseChannel
from hermes_celery.delivering.channels import Channels
from hermes_celery.delivering.dead_man_switch import Pinger, SchedulerSwitch, check_url
from hermes_celery.delivering.deliverer import Deliverer, DeliveryRules, DeliveryStores
from hermes_celery.delivering.outbox import push_due
from hermes_celery.delivering.outbox import redeliver as begin_again
from hermes_celery.delivering.overload import OverloadWatch
from hermes_celery.delivering.template import check_template
from hermes_celery.delivering.trouble_reporter import TroubleReporter
from hermes_celery.delivering.watchdog import Watchdog
from hermes_celery.errors import JobError, SettingsError
from hermes_celery.events import event
from hermes_celery.guards.duty import Duty
from hermes_celery.running.dotenv_files import dotenv
from hermes_celery.running.stuck_work import HeldMessage, PoolSlotGuard, StuckWorkHandler
from hermes_celery.scheduling.sweep import RecordExaminer, Sweep
from hermes_celery.settings import Settings, process_environment
from hermes_celery.store import (
    Database,
    Deliveries,
    Incidents,
    Jobs,
    Records,
    Repairs,
    Runs,
    SharedKeys,
    Signs,
    SweepNotes,
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


def make_delivery_rescue(
    settings: Settings,
    database: Database,
    messages: DeliveryMessages,
    *,
    clock: Clock,
    on_broken: BrokenRecords,
) -> Callable[[int, int], None]:
    """What a leader does for deliveries in each pass of rescue: push what is due, and scan."""
    deliveries = Deliveries(database)
    watchdog = make_watchdog(settings, database, clock=clock, on_broken=on_broken)
    scanning = Duty("scan", clock=clock, on_broken=on_broken)
    pushing = Duty("push deliveries", clock=clock, on_broken=on_broken)

    def pass_once(token: int, now_ms: int) -> None:
        scanning.attempt(lambda: watchdog.scan(now_ms), None)
        pushing.attempt(
            lambda: push_due(deliveries, messages, token=token, now_ms=now_ms, on_broken=on_broken),
            0,
        )

    return pass_once


def make_examiner(database: Database) -> RecordExaminer:
    """What compares and mends records."""
    return RecordExaminer(
        repairs=Repairs(database), shared=SharedKeys(database), records=Records(database)
    )


def make_sweep(settings: Settings) -> Sweep:
    """What compares all records in small steps, through a connection of its own."""
    database = open_database(settings)
    return Sweep(
        make_examiner(database),
        jobs=Jobs(database),
        incidents=Incidents(database),
        reporter=make_reporter(settings, database),
        notes=SweepNotes(database),
    )


def make_broken_records(settings: Settings, database: Database, clock: Clock) -> BrokenRecords:
    """What makes incidents of records that cannot be read."""
    return BrokenRecords(make_reporter(settings, database), Incidents(database), clock=clock)


def make_watchdog(
    settings: Settings, database: Database, *, clock: Clock, on_broken: BrokenRecords
) -> Watchdog:
    """What looks for troubles that no run reports."""
    reporter, url = make_reporter(settings, database), settings.ping_url
    pinger = Pinger(timeout_seconds=settings.delivery_timeout_seconds)
    return Watchdog(
        database,
        reporter=reporter,
        broken=on_broken,
        clock=clock,
        switch=SchedulerSwitch(url, pinger=pinger) if url else None,
        overload=OverloadWatch(
            database, incidents=Incidents(database), reporter=reporter, home=settings.home
        ),
    )


def make_stuck_work_handler(settings: Settings) -> StuckWorkHandler:
    """What reacts to work that goes on although its run was stopped."""
    database = open_database(settings)
    return StuckWorkHandler(
        reporter=make_reporter(settings, database),
        incidents=Incidents(database),
        clock=ServerClock(database.now_ms),
    )


def make_slot_guard(
    settings: Settings,
    *,
    worker: str,
    held: Callable[[], Iterable[HeldMessage]],
    kill: Callable[[int], None],
) -> PoolSlotGuard:
    """What watches the slots of this worker's pool."""
    database = open_database(settings)
    clock = ServerClock(database.now_ms)
    return PoolSlotGuard(Runs(database), worker=worker, held=held, kill=kill, clock=clock)


def make_beat_watchdog(settings: Settings) -> BeatWatchdog:
    """What watches from a worker that some beat ticks."""
    database = open_database(settings)
    return BeatWatchdog(
        Signs(database),
        make_reporter(settings, database),
        clock=ServerClock(database.now_ms),
    )


def make_reporter(settings: Settings, database: Database) -> TroubleReporter:
    """What tells of troubles; a notice that no worker would send goes out from a thread here."""

    def send_now(notice: str) -> None:
        deliver = make_deliverer(settings).deliver
        threading.Thread(target=deliver, args=(notice,), name="hermes-notice", daemon=True).start()

    return TroubleReporter(
        incidents=Incidents(database),
        deliveries=Deliveries(database),
        alerts=settings.alerts,
        send_now=send_now,
    )
