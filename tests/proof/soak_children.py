"""The processes of the soak: real beats and workers, whose runs write down that they started.

    python -m tests.proof.soak_children beat        a beat
    python -m tests.proof.soak_children consumer    a worker without Celery around it: takes
                                                    messages by BRPOP, claims, performs, finishes
    celery -A tests.proof.soak_children:app worker  a Celery worker

Work is a line in a file, so that a million runs fit into minutes. Waiting is cut short (a message
is pushed again after 5 s, a silent run is lost after 4 s), nothing else differs from `compose`.
`SOAK_CLOCK_OFFSET` puts this process's clock wrong by so many seconds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from celery import Celery

from hermes_celery.app import make_app
from hermes_celery.beat import owner_name
from hermes_celery.clock import ServerClock
from hermes_celery.compose import app_settings, open_database
from hermes_celery.dispatch import RUN_TASK, Dispatch
from hermes_celery.errors import StoreError
from hermes_celery.job import JobSpec
from hermes_celery.parent_death import die_with_parent
from hermes_celery.pulse import Pulse, RunningRun
from hermes_celery.run import Outcome, RunState
from hermes_celery.runner import Runner
from hermes_celery.session import Session
from hermes_celery.settings import Settings, read_settings
from hermes_celery.store import Database, DueIndex, Runs, Waker
from hermes_celery.tasks import RunTask
from tests.proof.acts import assembled_beat, unpacked
from tests.proof.history import StartLog

REDELIVER_AFTER_MS = 5_000
HEARTBEAT_TIMEOUT_MS = 4_000
#: The name of jobs whose first attempt fails.
FAILS = "fails"
_RETRY_SECONDS = 0.2


class LineWork:
    """Work that is a line in this process's file."""

    def __init__(self, starts: Path) -> None:
        self._log = StartLog(starts)

    def perform(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        """Write it, and succeed; or fail, where that is the job."""
        attempt = session.attempt or 0
        self._log.note(session.run_id, attempt)
        failed = spec.name == FAILS and attempt == 1
        return Outcome(state=RunState.FAILED if failed else RunState.SUCCEEDED)


def make_runs(database: Database) -> Runs:
    """Runs with short patience."""
    return Runs(
        database,
        redeliver_after_ms=REDELIVER_AFTER_MS,
        heartbeat_timeout_ms=HEARTBEAT_TIMEOUT_MS,
    )


def make_runner(settings: Settings) -> Runner:
    """What performs runs in this process."""
    database = open_database(settings)
    clock, runs = ServerClock(database.now_ms), make_runs(database)
    work = LineWork(Path(os.environ["SOAK_STARTS"]))
    return Runner(runs, pulse=Pulse(runs, clock=clock), work_for=lambda _: work, clock=clock)


def beat(settings: Settings) -> None:
    """Lead or stand by, for ever."""
    database = open_database(settings)
    beat = assembled_beat(
        database,
        owner=owner_name(),
        clock=ServerClock(database.now_ms),
        make_due_index=lambda shard: DueIndex(
            database, shard=shard, redeliver_after_ms=REDELIVER_AFTER_MS
        ),
        runs=make_runs(database),
        messages=Dispatch(make_app(settings)),
        waker=Waker(database),
        pause=time.sleep,
    )
    while True:
        beat.step()


def consumer(settings: Settings) -> None:
    """Perform what comes, for ever."""
    database, runner = open_database(settings), make_runner(settings)
    name = f"consumer@{os.getpid()}"
    while True:
        try:
            answer = database.call("BRPOP", database.keys.default_queue, 1)
            if answer:
                run_id, session = unpacked(answer[1])
                runner.perform(run_id, session=session, worker=name)
        except StoreError:
            time.sleep(_RETRY_SECONDS)


class SoakTask(RunTask):
    """The task of every run, with our work."""

    abstract = True

    def runner_here(self) -> Runner:
        """What performs runs in this process."""
        cls = type(self)
        if cls._runner is None or cls._runner[0] != os.getpid():
            cls._runner = (os.getpid(), make_runner(app_settings(self.app)))
        return cls._runner[1]


def make_soak_app(settings: Settings) -> Celery:
    """Our app, its run task replaced."""
    app = make_app(settings)
    app.finalize()
    app.tasks.pop(RUN_TASK)
    app.task(SoakTask.perform, name=RUN_TASK, base=SoakTask, bind=True, ignore_result=True)
    return app


def put_clock_wrong(seconds: float) -> None:
    """Have `time.time` of this process be off, as the clock of a neglected machine is."""
    true_time = time.time
    time.time = lambda: true_time() + seconds


def __getattr__(name: str) -> Celery:
    """The app, made when a worker asks for it."""
    if name == "app":
        put_clock_wrong(float(os.environ.get("SOAK_CLOCK_OFFSET", "0")))
        return make_soak_app(read_settings())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main(role: str) -> None:
    """Be a beat or a consumer."""
    die_with_parent()
    put_clock_wrong(float(os.environ.get("SOAK_CLOCK_OFFSET", "0")))
    roles: dict[str, Callable[[Settings], None]] = {"beat": beat, "consumer": consumer}
    roles[role](read_settings())


if __name__ == "__main__":
    main(sys.argv[1])
