"""Builds what a worker needs: the runner, the run ender and the dead letters."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from hermes_celery.celery_app.safe_consumer import DeadLetters
from hermes_celery.clock import ServerClock
from hermes_celery.delivering.dead_man_switch import Pinger
from hermes_celery.delivering.outbox import RunAnnouncer
from hermes_celery.errors import AmbiguousJobReference, JobNotFound, RecordBroken
from hermes_celery.running.background_writes import BackgroundWrites
from hermes_celery.running.ended_by_celery import RunEnder
from hermes_celery.running.heartbeat import Heartbeats
from hermes_celery.running.kinds import make_work
from hermes_celery.running.runner import Runner, RunServices
from hermes_celery.settings import Settings
from hermes_celery.store import Jobs, Letters, RunLimits, Runs
from hermes_celery.wiring.delivery import make_deliverer
from hermes_celery.wiring.messages import make_messages
from hermes_celery.wiring.server import open_database
from hermes_celery.wiring.watchdogs import make_stuck_work_handler, make_sweep

if TYPE_CHECKING:
    from hermes_celery.celery_app.types import Celery


def make_dead_letters(settings: Settings, *, worker: str, run_ender: RunEnder) -> DeadLetters:
    """Return the store for messages that this worker cannot read."""
    database = open_database(settings)
    return DeadLetters(
        Letters(database),
        clock=ServerClock(database.now_ms),
        worker=worker,
        handed_on_failed=run_ender.handed_on_failed,
    )


def make_run_ender(settings: Settings) -> RunEnder:
    """Return the ender of runs whose messages Celery handles in this process without the task."""
    database = open_database(settings)
    return RunEnder(
        Runs(database),
        deliveries=cache(lambda: make_deliverer(settings)),
        writes=BackgroundWrites(),
        clock=ServerClock(database.now_ms),
    )


def make_runner(settings: Settings, *, app: Celery) -> Runner:
    """Return the runner, which performs runs in this worker process."""
    database = open_database(settings)
    clock = ServerClock(database.now_ms)
    runs = Runs(database)
    jobs = Jobs(database)

    sweep = cache(lambda: make_sweep(settings))

    def mend(job_id: str, error: RecordBroken) -> None:
        sweep().broken(job_id, error.key, now_ms=clock.now_ms())

    return Runner(
        runs,
        heartbeats=Heartbeats(runs, clock=clock),
        work_for=make_work(
            settings, outputs=lambda name, run: latest_output(jobs, runs, name, run)
        ),
        clock=clock,
        services=RunServices(
            limits=RunLimits(database),
            listener=RunAnnouncer(
                make_messages(settings, app=app),
                pinger=Pinger(timeout_seconds=settings.delivery_timeout_seconds),
            ),
            stuck_work=lambda: make_stuck_work_handler(settings),
            mend=mend,
        ),
    )


def latest_output(jobs: Jobs, runs: Runs, reference: str, except_run: str) -> str | None:
    """Return the latest output of the job with that id or name, in any run except `except_run`.

    None if there is none.
    """
    try:
        job = jobs.find(reference)
    except (JobNotFound, AmbiguousJobReference):
        return None
    return runs.latest_output(job.id, except_run=except_run)
