"""Builds the beat of one namespace: lease, shards, rescue and the leader's other duties."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hermes_celery.celery_app.app_settings import app_settings
from hermes_celery.celery_app.broker import key_prefix
from hermes_celery.celery_app.flower_texts import LostRunReporter
from hermes_celery.celery_app.inspecting import Inspection
from hermes_celery.celery_app.message_time_limit import BoundedMessages
from hermes_celery.celery_app.messages import RUN_TASK
from hermes_celery.clock import Clock, ServerClock
from hermes_celery.core.job import JobSpec
from hermes_celery.errors import RecordBroken
from hermes_celery.guards.contained_duty import Duty
from hermes_celery.guards.on_broken import OnBroken, ignored
from hermes_celery.interop.orphaned_entries import log_orphans_soon
from hermes_celery.scheduling.beat import Beat, owner_name
from hermes_celery.scheduling.emptied_server import LossWatch
from hermes_celery.scheduling.foreign_workers import ForeignWorkers
from hermes_celery.scheduling.leader_duties import LeaderDuties, LeaderHooks
from hermes_celery.scheduling.lease import Lease
from hermes_celery.scheduling.living_beats import LivingBeats
from hermes_celery.scheduling.resharding import reshard
from hermes_celery.scheduling.run_rescue import Rescuer
from hermes_celery.scheduling.shard import Shard
from hermes_celery.settings import Settings
from hermes_celery.store import (
    BrokenJob,
    Database,
    DueIndex,
    History,
    Incidents,
    Jobs,
    Migrator,
    Retention,
    Runs,
    Shards,
    Waker,
)
from hermes_celery.store.loss_note import LossNote
from hermes_celery.wiring.foreign_schedules import orphans_of_others
from hermes_celery.wiring.messages import make_messages
from hermes_celery.wiring.server import open_database
from hermes_celery.wiring.watchdogs import (
    make_broken_records,
    make_delivery_rescue,
    make_reporter,
    make_sweep,
)

if TYPE_CHECKING:
    from hermes_celery.celery_app.declarer import Declarer
    from hermes_celery.celery_app.messages import OccurrenceListener
    from hermes_celery.celery_app.types import Celery
    from hermes_celery.scheduling.sweep import Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatPlace:
    """The app, store and name of one beat."""

    app: Celery
    settings: Settings
    database: Database
    #: The beat's name in leases and program signs.
    owner: str
    clock: Clock


def beat_of(
    place: BeatPlace,
    *,
    declaring: Declarer,
    waker: Waker | None = None,
    entries: OccurrenceListener | None = None,
) -> Beat:
    """Return a beat for one namespace."""
    settings, database, clock = place.settings, place.database, place.clock
    on_broken = make_broken_records(settings, database, clock)
    dispatch = make_messages(settings, app=place.app, entries=entries, in_tasks=False)
    messages = BoundedMessages(
        dispatch,
        on_hang=lambda spec, what: on_broken.hangs(spec.id, f"job {spec.name}: {what}"),
    )
    runs, foreign = Runs(database), _foreign_workers_of(place)

    def make_shard(number: int) -> Shard:
        return Shard(
            number,
            lease=Lease(
                database, owner=place.owner, clock=clock, shard=number, on_broken=on_broken
            ),
            due_index=DueIndex(
                database,
                shard=number,
                why_sent=_never_sent if foreign is None else foreign.why_sent,
            ),
            messages=messages,
            clock=clock,
            on_broken=on_broken,
        )

    duties = LeaderDuties(
        Rescuer(Jobs(database), runs, messages, on_broken=on_broken, foreign=foreign),
        make_history(settings, database, on_broken=on_broken),
        clock=clock,
        hooks=_hooks_of(
            place,
            declaring=declaring,
            foreign=foreign,
            push_deliveries=make_delivery_rescue(
                settings, database, dispatch, clock=clock, on_broken=on_broken
            ),
            on_broken=on_broken,
        ),
        on_broken=on_broken,
    )
    beat = Beat(
        LivingBeats(Shards(database), owner=place.owner, clock=clock, on_broken=on_broken),
        make_shard,
        duties,
        waker=waker or Waker(database),
        clock=clock,
    )
    messages.meanwhile = beat.keep_leading
    return beat


def _never_sent(spec: JobSpec, queue: str) -> str:
    """Return "": all workers of the namespace report their runs."""
    return ""


def _hooks_of(
    place: BeatPlace,
    *,
    declaring: Declarer,
    foreign: ForeignWorkers | None,
    push_deliveries: Callable[[int, int], None],
    on_broken: OnBroken,
) -> LeaderHooks:
    """Return the hooks for what this beat does as leader beyond every leader's duties."""
    settings, database, clock = place.settings, place.database, place.clock
    loss = LossWatch(
        LossNote(settings.state_dir, database),
        reporter=make_reporter(settings, database),
        incidents=Incidents(database),
        clock=clock,
    )
    sweep, runs, loss_reporter = make_sweep(settings), Runs(database), LostRunReporter(place.app)

    # A duty of its own: if the search for lost jobs fails, the beat must still declare its jobs.
    # Each pass of rescue searches again.
    looks_for_loss = Duty("look for lost jobs at first", clock=clock, on_broken=on_broken)

    def on_lead() -> None:
        looks_for_loss.attempt(lambda: loss.begin(clock.now_ms()), None)
        with _mending(sweep, clock):
            declaring.begin(clock.now_ms())
        if foreign is not None:
            foreign.begin()
        if not place.app.conf.get("hermes_is_own_app"):
            log_orphans_soon(lambda: orphans_of_others(settings, app=place.app))

    def on_lost(run_ids: Sequence[str]) -> None:
        loss_reporter.tell(
            [
                (runs.message_of(run.id), run.job_name, f"lost: {run.error}")
                for run in runs.known(run_ids)
            ]
        )

    def declare(now_ms: int) -> None:
        with _mending(sweep, clock):
            declaring.step(now_ms)

    keep_in_step = _keeping_in_step(declare, loss, clock=clock, on_broken=on_broken)
    return LeaderHooks(
        on_lead=on_lead,
        on_pass=_with_migration(database, push_deliveries, keep_in_step),
        sweep=sweep.step,
        on_fault=_telling_of_faults(sweep, clock),
        on_lost=on_lost,
        on_stop=declaring.stop,
    )


@contextmanager
def _mending(sweep: Sweep, clock: Clock) -> Iterator[None]:
    """Repair the key that makes this work fail, so that its next attempt succeeds.

    The sweep itself finds the set of a project's jobs only through their records, which may be lost
    together with it.
    """
    try:
        yield
    except RecordBroken as error:
        sweep.broken("", error.key, now_ms=clock.now_ms())
        raise


def _telling_of_faults(sweep: Sweep, clock: Clock) -> Callable[[BrokenJob], None]:
    """Return the handler of a job that a tick could not plan or dispatch."""

    def on_fault(fault: BrokenJob) -> None:
        if fault.is_gone:
            sweep.gone(fault.job_id, now_ms=clock.now_ms())
        elif fault.key:
            sweep.broken(fault.job_id, fault.key, now_ms=clock.now_ms())
        elif fault.again_ms is not None:
            sweep.put_off(fault.job_id, fault.error, now_ms=clock.now_ms())
        else:
            sweep.taken_off(now_ms=clock.now_ms())

    return on_fault


def split_due_index(database: Database, count: int) -> int:
    """Split the due index into `count` shards while no beat leads; return how many jobs moved.

    Raises StoreError.
    """
    clock, owner = ServerClock(database.now_ms), owner_name()
    return reshard(
        Shards(database),
        count,
        lease_of=lambda shard: Lease(database, owner=owner, clock=clock, shard=shard),
    )


def _foreign_workers_of(place: BeatPlace) -> ForeignWorkers | None:
    """Return the watcher of workers that do not report; None if all workers report.

    A project's workers sign only in the project's own namespace, not in the one it moves out of.
    """
    if place.settings.namespace != app_settings(place.app).namespace:
        return None
    return make_foreign_workers(place.app, place.settings)


def make_foreign_workers(app: Celery, settings: Settings) -> ForeignWorkers:
    """Return the watcher that finds queues with consumers without our hooks, in its own thread."""
    database = open_database(settings)
    return ForeignWorkers(
        database,
        asking=Inspection(app, run_task=RUN_TASK),
        clock=ServerClock(database.now_ms),
        key_prefix=key_prefix(app),
    )


def _with_migration(
    database: Database,
    on_rescue: Callable[[int, int], None],
    keep_in_step: Callable[[int], None],
) -> Callable[[int, int], None]:
    """Return the leader's work in each pass of rescue, with a migration step before it."""
    migrator = Migrator(database)

    def pass_once(token: int, now_ms: int) -> None:
        migrator.step(token=token, now_ms=now_ms)
        keep_in_step(now_ms)
        on_rescue(token, now_ms)

    return pass_once


def _keeping_in_step(
    declare: Callable[[int], None], loss: LossWatch, *, clock: Clock, on_broken: OnBroken
) -> Callable[[int], None]:
    """Return the part of each pass that declares jobs and looks for lost ones."""
    declares = Duty("declare", clock=clock, on_broken=on_broken)
    watches = Duty("look for lost jobs", clock=clock, on_broken=on_broken)

    def keep_in_step(now_ms: int) -> None:
        declares.attempt(lambda: declare(now_ms), None)
        watches.attempt(lambda: loss.step(now_ms), None)

    return keep_in_step


def make_history(
    settings: Settings, database: Database, *, on_broken: OnBroken = ignored
) -> History:
    """Return the history, which deletes old runs and old completed jobs."""
    retention = Retention(
        runs_per_job=settings.keep_runs,
        run_days=settings.keep_days,
        completed_job_days=settings.keep_completed_days,
    )
    return History(database, retention=retention, on_broken=on_broken)
