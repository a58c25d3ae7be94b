"""The composition root: settings in, collaborators out. Nothing is decided here.

Celery is imported only by what needs it, so that commands which only read Redis start fast.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hermes_celery.celery_app.broker import following_broker, key_prefix, refuse_another_broker
from hermes_celery.celery_app.project_app import with_namespace
from hermes_celery.client import Crontab
from hermes_celery.clock import Clock, ServerClock
from hermes_celery.core.job import JobSpec, SessionSource
from hermes_celery.core.server_address import parse_address
from hermes_celery.errors import (
    AmbiguousJobReference,
    JobError,
    JobNotFound,
    RecordBroken,
    SettingsError,
)
from hermes_celery.guards.duty import Duty
from hermes_celery.guards.on_broken import OnBroken, ignored
from hermes_celery.masking.server_urls import without_password
from hermes_celery.running.script import locate
from hermes_celery.scheduling.lost_jobs import LossWatch
from hermes_celery.settings import DEFAULT_NAMESPACE, Settings, broker_variables, read_settings
from hermes_celery.store import (
    BrokenJob,
    Database,
    Declarations,
    DueIndex,
    ForeignQueues,
    Formats,
    History,
    Incidents,
    Jobs,
    Letters,
    Migrator,
    Places,
    Retention,
    Runs,
    Waker,
    connect,
)
from hermes_celery.store.load import base_of
from hermes_celery.store.loss_note import Witness
from hermes_celery.store.program_signs import ProgramSign
from hermes_celery.store.redbeat import DEFAULT_PREFIX, RedBeat
from hermes_celery.wiring.server import (
    address_of,
    open_database,
    reachable_database,
    readable_database,
    redis_url,
)

if TYPE_CHECKING:
    from celery import Celery

    from hermes_celery.celery_app.declaring import Declares
    from hermes_celery.celery_app.messages import Dispatch, Entries
    from hermes_celery.celery_app.safe_consumer import DeadLetters
    from hermes_celery.running.endings import Endings
    from hermes_celery.running.runner import Runner
    from hermes_celery.scheduling.beat import Beat
    from hermes_celery.scheduling.foreign_workers import ForeignWorkers

_log = logging.getLogger(__name__)


def app_settings(app: Celery) -> Settings:
    """The settings of an app: those it was made with, else the environment's.

    A project's store is its broker, and its namespace the name of its app. Celery's command line
    may still change the broker after the app was made, so it is looked at each time. Raises
    SettingsError when the broker is no Redis, or another server, database or user than the store,
    and when the app's name cannot be a namespace.
    """
    settings: Settings | None = app.conf.get("hermes_settings")
    if settings is None:
        settings = app.conf.hermes_settings = read_settings()
    if not app.conf.get("hermes_is_own_app"):
        return following_broker(with_namespace(settings, app), app)
    refuse_another_broker(app, address_of(settings))
    return settings


def open_redbeat(
    settings: Settings, *, app: Celery | None, prefix: str | None = None, url: str | None = None
) -> RedBeat:
    """RedBeat's entries: of an app, as its settings say, else in our store under its usual prefix.

    Raises SettingsError.
    """
    from hermes_celery.interop import redbeat as from_redbeat

    if app is not None:
        prefix = prefix or from_redbeat.prefix_of(app)
        url = url or from_redbeat.url_of(app)
    database = open_database(settings)
    if url is not None:
        try:
            database = Database(connect(parse_address(url)), keys=database.keys)
        except ValueError as error:
            raise SettingsError([f"RedBeat's Redis: {error}"]) from None
    return RedBeat(database, prefix=prefix or DEFAULT_PREFIX)


def left_by_others(settings: Settings, *, app: Celery | None) -> list[str]:
    """What other beats have left where this app has them; a sentence each. Raises SettingsError."""
    from hermes_celery.interop.left_behind import left_behind

    return left_behind(Jobs(open_database(settings)), open_redbeat(settings, app=app))


def check_broker(settings: Settings) -> None:
    """Refuse variables that would lead our own app to another server. Raises SettingsError."""
    if broker_variables():
        from hermes_celery.celery_app.app import make_app

        app_settings(make_app(settings))


def open_cron(settings: Settings | None = None, *, app: Celery | None = None) -> Crontab:
    """The verbs on jobs and runs, from the environment. Raises SettingsError or StoreError.

    `app` is the Celery app whose workers perform the runs; ours, if none is given.
    """
    settings = settings or read_settings()
    return _crontab(settings, reachable_database(settings), app=app)


def open_cron_to_read(settings: Settings, *, app: Celery | None = None) -> Crontab:
    """The verbs for those that only read. Raises SettingsError, StoreError.

    They work beside what a newer program has stored, with a warning.
    """
    return _crontab(settings, readable_database(settings), app=app)


def _crontab(settings: Settings, database: Database, *, app: Celery | None) -> Crontab:
    declarations = Declarations(database)
    return Crontab(
        jobs=Jobs(database),
        runs=Runs(database),
        due=DueIndex(database),
        clock=ServerClock(database.now_ms),
        messages=lambda: make_messages(settings, app=app),
        default_timezone=default_zone(settings, app),
        check_files=lambda spec: check_files(spec, scripts_dir=settings.scripts_dir),
        check_delivery=lambda spec: _check_delivery(settings, spec),
        routes_tasks=app is not None,
        # Beats of our own app declare nothing.
        is_a_projects=lambda: bool(declarations.living(now_ms=database.now_ms())),
        refusals=declarations.refusals,
        why_sent=why_sent_of(database, app),
    )


def default_zone(settings: Settings, app: Celery | None) -> str:
    """The zone of jobs that name none: the one that the app sets, else HERMES_TIMEZONE, the host's.

    So it is for an app's `beat_schedule`. Raises JobError where the app's is none.
    """
    if app is None or not app.conf.timezone:
        return settings.timezone
    from hermes_celery.interop.beat_schedule import zone_of

    return zone_of(app)


def why_sent_of(database: Database, app: Celery | None) -> Callable[[JobSpec, str], str]:
    """What is stored of queues whose workers do not report."""
    prefix = "" if app is None else key_prefix(app)

    def why_sent(spec: JobSpec, queue: str) -> str:
        if spec.task is None:
            return ""
        name = base_of(queue).removeprefix(prefix)
        return ForeignQueues(database).why_sent(name, now_ms=database.now_ms())

    return why_sent


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


def _check_delivery(settings: Settings, spec: JobSpec) -> None:
    from hermes_celery.wiring.delivery import check_delivery

    check_delivery(settings, spec)


def make_beat(
    app: Celery,
    *,
    owner: str,
    clock: Clock | None = None,
    waker: Waker | None = None,
    entries: Entries | None = None,
) -> Beat:
    """A beat for this app's namespace; by the server's clock unless another is given.

    `entries` tells whoever watches Celery's beat of each scheduled occurrence.
    """
    from hermes_celery.wiring.project_jobs import make_declaring

    settings = app_settings(app)
    database = open_database(settings)
    clock = clock or ServerClock(database.now_ms)
    declaring = make_declaring(app, settings, database, owner=owner, clock=clock)
    return beat_of(
        app,
        settings,
        database,
        owner=owner,
        clock=clock,
        waker=waker,
        declaring=declaring,
        entries=entries,
    )


def beat_of(
    app: Celery,
    settings: Settings,
    database: Database,
    *,
    owner: str,
    clock: Clock,
    waker: Waker | None = None,
    declaring: Declares,
    entries: Entries | None = None,
) -> Beat:
    """A beat for one namespace."""
    from hermes_celery.celery_app.building import BoundedMessages
    from hermes_celery.celery_app.flower_texts import LossTeller
    from hermes_celery.interop.left_behind import tell_soon
    from hermes_celery.scheduling.beat import Beat
    from hermes_celery.scheduling.lease import Lease
    from hermes_celery.scheduling.living_beats import Members
    from hermes_celery.scheduling.shard import Shard
    from hermes_celery.store import Shards
    from hermes_celery.wiring.delivery import (
        make_broken_records,
        make_delivery_rescue,
        make_sweep,
        make_teller,
    )

    on_broken = make_broken_records(settings, database, clock)
    loss = LossWatch(
        Witness(settings.state_dir, database),
        teller=make_teller(settings, database),
        incidents=Incidents(database),
        clock=clock,
    )

    def on_lead() -> None:
        try:
            loss.begin(clock.now_ms())
        except RecordBroken as error:
            on_broken("", error.key, error.what)
        declaring.begin(clock.now_ms())
        begin_foreign()
        if not app.conf.get("hermes_is_own_app"):
            tell_soon(lambda: left_by_others(settings, app=app))

    keep_in_step = _keeping_in_step(declaring, loss, clock=clock, on_broken=on_broken)
    runs = Runs(database)
    dispatch = make_messages(settings, app=app, entries=entries, in_tasks=False)
    messages = BoundedMessages(
        dispatch,
        on_hang=lambda spec, what: on_broken.hangs(spec.id, f"job {spec.name}: {what}"),
    )
    sweep = make_sweep(settings)

    def on_fault(fault: BrokenJob) -> None:
        if fault.key:
            sweep.broken(fault.job_id, fault.key, now_ms=clock.now_ms())
        else:
            sweep.taken_off(fault.job_id, fault.error, now_ms=clock.now_ms())

    teller = LossTeller(app)

    def on_lost(run_ids: Sequence[str]) -> None:
        teller.tell(
            [
                (runs.message_of(run.id), run.job_name, f"lost: {run.error}")
                for run in runs.known(run_ids)
            ]
        )

    foreign, why_sent, begin_foreign = _foreign_parts(app, settings)

    def make_shard(number: int) -> Shard:
        return Shard(
            number,
            lease=Lease(database, owner=owner, clock=clock, shard=number, on_broken=on_broken),
            due_index=DueIndex(database, shard=number, why_sent=why_sent),
            messages=messages,
            clock=clock,
            on_broken=on_broken,
        )

    beat = Beat(
        members=Members(Shards(database), owner=owner, clock=clock),
        make_shard=make_shard,
        jobs=Jobs(database),
        runs=runs,
        history=make_history(settings, database, on_broken=on_broken),
        messages=messages,
        waker=waker or Waker(database),
        clock=clock,
        on_lead=on_lead,
        on_rescue=_with_migration(
            database,
            make_delivery_rescue(settings, database, dispatch, clock=clock, on_broken=on_broken),
            keep_in_step,
        ),
        on_broken=on_broken,
        sweep=sweep.step,
        on_fault=on_fault,
        on_stop=declaring.stop,
        on_lost=on_lost,
        foreign=foreign,
    )
    messages.meanwhile = beat.keep_leading
    return beat


def split_due_index(database: Database, count: int) -> int:
    """Split the due index into `count` shards while no beat leads; returns how many jobs moved.

    Raises StoreError.
    """
    from hermes_celery.scheduling.beat import owner_name
    from hermes_celery.scheduling.lease import Lease
    from hermes_celery.scheduling.resharding import reshard
    from hermes_celery.store import Shards

    clock, owner = ServerClock(database.now_ms), owner_name()
    return reshard(
        Shards(database),
        count,
        lease_of=lambda shard: Lease(database, owner=owner, clock=clock, shard=shard),
    )


def _foreign_parts(
    app: Celery, settings: Settings
) -> tuple[ForeignWorkers | None, Callable[[JobSpec, str], str], Callable[[], None]]:
    """What knows workers that do not report, what it says of a queue, and how it begins to lead."""
    # The workers of a project sign in its own namespace, not in that which it leaves.
    if settings.namespace != app_settings(app).namespace:
        return None, lambda spec, queue: "", lambda: None
    foreign = make_foreign_workers(app, settings)
    return foreign, foreign.why_sent, foreign.begin


def make_foreign_workers(app: Celery, settings: Settings) -> ForeignWorkers:
    """What finds out, in a thread of its own, which queues have consumers without our hooks."""
    from hermes_celery.celery_app.inspecting import Inspection
    from hermes_celery.celery_app.messages import RUN_TASK
    from hermes_celery.scheduling.foreign_workers import ForeignWorkers

    database = open_database(settings)
    return ForeignWorkers(
        database,
        asking=Inspection(app, run_task=RUN_TASK),
        clock=ServerClock(database.now_ms),
        key_prefix=key_prefix(app),
    )


def shared_settings(app: Celery) -> Settings | None:
    """The settings for the namespace in which version 0.1.0 kept an app's jobs.

    None where that is the app's namespace, today as then. Raises SettingsError.
    """
    settings = app_settings(app)
    is_own = bool(app.conf.get("hermes_is_own_app"))
    if is_own or settings.is_namespace_given or settings.namespace == DEFAULT_NAMESPACE:
        return None
    return replace(settings, namespace=DEFAULT_NAMESPACE)


def namespaces_of(app: Celery) -> frozenset[str]:
    """The namespaces whose runs an app's workers perform: its own, and the one that it leaves."""
    shared = shared_settings(app)
    own = app_settings(app).namespace
    return frozenset((own,) if shared is None else (own, shared.namespace))


def make_dead_letters(settings: Settings, *, worker: str, endings: Endings) -> DeadLetters:
    """Where this worker puts messages that it cannot read."""
    from hermes_celery.celery_app.safe_consumer import DeadLetters

    database = open_database(settings)
    return DeadLetters(
        Letters(database),
        clock=ServerClock(database.now_ms),
        worker=worker,
        handed_on_failed=endings.handed_on_failed,
    )


def make_endings(settings: Settings) -> Endings:
    """What ends runs whose messages Celery deals with by itself, in this process."""
    from hermes_celery.running.endings import Endings
    from hermes_celery.running.errands import Errands
    from hermes_celery.wiring.delivery import make_deliverer

    database = open_database(settings)
    return Endings(
        Runs(database),
        deliveries=cache(lambda: make_deliverer(settings)),
        errands=Errands(),
        clock=ServerClock(database.now_ms),
    )


def make_sign(
    settings: Settings,
    *,
    name: str,
    besides: Callable[[], None] = lambda: None,
    at_end: Callable[[], None] = lambda: None,
) -> ProgramSign:
    """What says that this beat or worker is there; one that has become too old stops warmly.

    `besides` says more each time, and `at_end` takes that back.
    """
    database = open_database(settings)
    return ProgramSign(
        Formats(database),
        name=name,
        clock=ServerClock(database.now_ms),
        stop_program=lambda: os.kill(os.getpid(), signal.SIGTERM),
        besides=besides,
        at_end=at_end,
    )


def _with_migration(
    database: Database,
    on_rescue: Callable[[int, int], None],
    keep_in_step: Callable[[int], None],
) -> Callable[[int, int], None]:
    """What a leader does in each pass of rescue, and steps of migrations before it."""
    migrator = Migrator(database)

    def pass_once(token: int, now_ms: int) -> None:
        migrator.step(token=token, now_ms=now_ms)
        keep_in_step(now_ms)
        on_rescue(token, now_ms)

    return pass_once


def _keeping_in_step(
    declaring: Declares, loss: LossWatch, *, clock: Clock, on_broken: OnBroken
) -> Callable[[int], None]:
    """What a leader does in each pass of rescue for what is declared, and against a loss."""
    declares = Duty("declare", clock=clock, on_broken=on_broken)
    watches = Duty("look for lost jobs", clock=clock, on_broken=on_broken)

    def keep_in_step(now_ms: int) -> None:
        declares.attempt(lambda: declaring.step(now_ms), None)
        watches.attempt(lambda: loss.step(now_ms), None)

    return keep_in_step


def make_history(
    settings: Settings, database: Database, *, on_broken: OnBroken = ignored
) -> History:
    """What forgets runs and completed jobs."""
    retention = Retention(
        runs_per_job=settings.keep_runs,
        run_days=settings.keep_days,
        completed_job_days=settings.keep_completed_days,
    )
    return History(database, retention=retention, on_broken=on_broken)


def make_runner(settings: Settings, *, app: Celery) -> Runner:
    """What performs runs in this worker process."""
    from hermes_celery.delivering.dead_man_switch import Pinger
    from hermes_celery.delivering.outbox import Announcer
    from hermes_celery.running.heartbeat import Pulse
    from hermes_celery.running.kinds import make_work
    from hermes_celery.running.runner import Runner
    from hermes_celery.wiring.delivery import make_overstay, make_sweep

    database = open_database(settings)
    clock = ServerClock(database.now_ms)
    runs = Runs(database)
    jobs = Jobs(database)

    sweep = cache(lambda: make_sweep(settings))

    def mend(job_id: str, error: RecordBroken) -> None:
        sweep().broken(job_id, error.key, now_ms=clock.now_ms())

    return Runner(
        runs,
        pulse=Pulse(runs, clock=clock),
        work_for=make_work(
            settings, outputs=lambda name, run: latest_output(jobs, runs, name, run)
        ),
        places=Places(database),
        after=Announcer(
            make_messages(settings, app=app),
            pinger=Pinger(timeout_seconds=settings.delivery_timeout_seconds),
        ),
        mend=mend,
        overstay=lambda: make_overstay(settings),
        clock=clock,
    )


def latest_output(jobs: Jobs, runs: Runs, reference: str, besides: str) -> str | None:
    """What the job of that id or name printed last, in any run but `besides`; None if nothing."""
    try:
        job = jobs.find(reference)
    except (JobNotFound, AmbiguousJobReference):
        return None
    return runs.latest_output(job.id, besides=besides)


def shown_url(app: Celery) -> str:
    """The server of an app, without its password."""
    return without_password(redis_url(app_settings(app)))


def make_messages(
    settings: Settings,
    *,
    app: Celery | None = None,
    entries: Entries | None = None,
    in_tasks: bool = True,
) -> Dispatch:
    """What builds the messages of an app's runs and deliveries, ours if none is given.

    The only place that makes one, so that every message is built as the settings say. `entries` and
    `in_tasks` are those of `Dispatch`.
    """
    from hermes_celery.celery_app.app import make_app
    from hermes_celery.celery_app.messages import Dispatch

    return Dispatch(
        app or make_app(settings),
        session=SessionSource(settings.session),
        namespace=settings.namespace,
        entries=entries,
        in_tasks=in_tasks,
    )
