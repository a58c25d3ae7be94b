"""The package's app with no-op work: `celery -A bench.stub:app worker`.

Claim, session, finish and the stored output are real; only no script process is started.
"""

from __future__ import annotations

import os
import time

from celery import Celery

from hermes_celery.celery_app.messages import RUN_TASK
from hermes_celery.celery_app.run_task import RunTask
from hermes_celery.clock import ServerClock
from hermes_celery.core.job import JobSpec
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.running.heartbeat import Heartbeats, RunningRun
from hermes_celery.running.runner import Runner
from hermes_celery.session import Session
from hermes_celery.settings import Settings, read_settings
from hermes_celery.store import Runs
from hermes_celery.wiring.own_app import make_app
from hermes_celery.wiring.server import open_database


class StubTask(RunTask):
    """The run task with no-op work; claim, session and finish are real."""

    abstract = True

    def runner_here(self) -> Runner:
        cls = type(self)
        if cls._runner is None or cls._runner[0] != os.getpid():
            cls._runner = (os.getpid(), _stub_runner(self.app.conf.hermes_settings))
        return cls._runner[1]


class _NoWork:
    """Work that returns a script's output without starting the script."""

    def perform(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        """Succeed at once, or after `BENCH_NAP` seconds."""
        if seconds := float(os.environ.get("BENCH_NAP", 0)):
            time.sleep(seconds)
        return Outcome(state=RunState.SUCCEEDED, output=b"done\n", exit_code=0)


def _stub_runner(settings: Settings) -> Runner:
    database = open_database(settings)
    clock, runs = ServerClock(database.now_ms), Runs(database)
    heartbeats, work = Heartbeats(runs, clock=clock), _NoWork()
    return Runner(runs, heartbeats=heartbeats, work_for=lambda spec: work, clock=clock)


def make_stub_app(settings: Settings) -> Celery:
    """Return the package's app with its run task replaced by the stub."""
    app = make_app(settings)
    app.finalize()
    app.tasks.pop(RUN_TASK)
    app.task(StubTask.perform, name=RUN_TASK, base=StubTask, bind=True, ignore_result=True)
    return app


def __getattr__(name: str) -> Celery:
    """Make the app when a worker imports it."""
    if name == "app":
        return make_stub_app(read_settings())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
