"""Builds what watches: the trouble reporter, the watchdogs, the slot guard and the sweep."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from hermes_celery.clock import Clock, ServerClock
from hermes_celery.core.server_address import BrokerNames
from hermes_celery.delivering.beat_watchdog import BeatWatchdog
from hermes_celery.delivering.broken_records import BrokenRecords
from hermes_celery.delivering.dead_man_switch import Pinger, SchedulerSwitch
from hermes_celery.delivering.outbox import push_due
from hermes_celery.delivering.overload import OverloadWatch
from hermes_celery.delivering.trouble_reporter import TroubleReporter
from hermes_celery.delivering.watchdog import Watchdog
from hermes_celery.guards.contained_duty import Duty
from hermes_celery.running.stuck_work import HeldMessage, PoolSlotGuard, StuckWorkHandler
from hermes_celery.scheduling.sweep import RecordExaminer, Sweep
from hermes_celery.settings import Settings
from hermes_celery.store import (
    Database,
    Declarations,
    Deliveries,
    Incidents,
    Jobs,
    Records,
    Repairs,
    Runs,
    SharedKeys,
    SweepNotes,
    TroubleSigns,
    command_options,
)
from hermes_celery.wiring.delivery import make_deliverer
from hermes_celery.wiring.server import open_database

if TYPE_CHECKING:
    from hermes_celery.delivering.outbox import DeliveryMessages


def make_delivery_rescue(
    settings: Settings,
    database: Database,
    messages: DeliveryMessages,
    *,
    clock: Clock,
    on_broken: BrokenRecords,
) -> Callable[[int, int], None]:
    """Return the leader's work on deliveries in each pass of rescue: scan, and push what is due."""
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


def make_examiner(database: Database, names: BrokerNames) -> RecordExaminer:
    """Return what compares and repairs records.

    `names` are the names of the app's keys in the broker.
    """
    return RecordExaminer(
        repairs=Repairs(database), shared=SharedKeys(database, names), records=Records(database)
    )


def make_sweep(settings: Settings) -> Sweep:
    """Return the sweep, which compares all records in small steps on its own connection."""
    database = open_database(settings)
    return Sweep(
        make_examiner(database, settings.broker_names),
        jobs=Jobs(database),
        incidents=Incidents(database),
        reporter=make_reporter(settings, database),
        notes=SweepNotes(database),
        declared_name=Declarations(database).name_of,
    )


def make_broken_records(settings: Settings, database: Database, clock: Clock) -> BrokenRecords:
    """Return the handler that records an incident for each unreadable record."""
    return BrokenRecords(make_reporter(settings, database), Incidents(database), clock=clock)


def make_watchdog(
    settings: Settings, database: Database, *, clock: Clock, on_broken: BrokenRecords
) -> Watchdog:
    """Return the watchdog for troubles that no run reports."""
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
    """Return the handler of work that continues although its run was stopped."""
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
    """Return the guard of this worker's pool slots."""
    database = open_database(settings)
    clock = ServerClock(database.now_ms)
    return PoolSlotGuard(Runs(database), worker=worker, held=held, kill=kill, clock=clock)


def make_beat_watchdog(settings: Settings) -> BeatWatchdog:
    """Return the watchdog that checks, in a worker, that some beat ticks."""
    database = open_database(settings)
    return BeatWatchdog(
        TroubleSigns(database),
        make_reporter(settings, database),
        clock=ServerClock(database.now_ms),
    )


def make_reporter(settings: Settings, database: Database) -> TroubleReporter:
    """Return the trouble reporter; a thread here sends a notice that no worker would send."""

    def send_now(notice: str) -> None:
        deliver = make_deliverer(settings).deliver
        threading.Thread(target=deliver, args=(notice,), name="hermes-notice", daemon=True).start()

    return TroubleReporter(
        incidents=Incidents(database),
        deliveries=Deliveries(database),
        alerts=settings.alerts,
        send_now=send_now,
        command_options=lambda now_ms: command_options(database, now_ms=now_ms),
    )
