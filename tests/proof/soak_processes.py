"""The processes of the soak: real beats and workers, whose runs write down that they started.

    python -m tests.proof.soak_processes beat        a beat
    python -m tests.proof.soak_processes consumer    a worker without Celery: takes messages by
                                                    BRPOP, claims, performs, finishes
    celery -A tests.proof.soak_processes:app worker  a Celery worker

A run writes one line to a file, so that a million runs fit into minutes. Waits are short: a message
is pushed again after 5 s, a silent run is lost after 4 s. All else is what `wiring` makes.
`SOAK_MENDS=off` takes the repairing sweep out of the beats. `SOAK_CLOCK_OFFSET` shifts this
process's clock by that many seconds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from celery import Celery

from hermes_celery.celery_app.app_settings import app_settings
from hermes_celery.celery_app.messages import RUN_TASK
from hermes_celery.celery_app.run_task import RunTask
from hermes_celery.clock import ServerClock
from hermes_celery.core.job import JobSpec
from hermes_celery.core.run import Outcome, RunState, Usage
from hermes_celery.errors import StoreError
from hermes_celery.process.parent_death import die_with_parent
from hermes_celery.running.heartbeat import Heartbeats, RunningRun
from hermes_celery.running.runner import Runner, RunServices
from hermes_celery.running.taken_message import TakenMessage
from hermes_celery.scheduling.beat import owner_name
from hermes_celery.session import Session
from hermes_celery.settings import Settings, read_settings
from hermes_celery.store import Database, DueIndex, RunLimits, Runs, Waker
from hermes_celery.wiring.delivery import make_deliverer
from hermes_celery.wiring.own_app import make_app
from hermes_celery.wiring.server import open_database
from hermes_celery.wiring.watchdogs import make_sweep
from tests.proof.crash_child import assembled_beat, unpacked
from tests.proof.delivery_receipts import make_announcer, push_deliveries
from tests.proof.history import StartLog
from tests.proof.limits_check import TOKENS, Crowds, crowds_path
from tests.support import messages_of

REDELIVER_AFTER_MS = 5_000
HEARTBEAT_TIMEOUT_MS = 4_000
#: Jobs of this name fail in their first attempt.
FAILS = "fails"
_RETRY_SECONDS = 0.2
#: Errors that parsing a malformed message raises.
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


class LineWork:
    """Work that writes one line to this process's file."""

    def __init__(self, starts: Path, crowds: Crowds, clock: ServerClock) -> None:
        self._log = StartLog(starts)
        self._crowds = crowds
        self._clock = clock

    def perform(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        """Write the line and succeed; a job called `fails` fails in its first attempt."""
        attempt = session.attempt or 0
        self._log.note(session.run_id, attempt)
        if spec.group_limit is not None:
            self._crowds.look(spec, now_ms=self._clock.now_ms())
        failed = spec.name == FAILS and attempt == 1
        return Outcome(
            state=RunState.FAILED if failed else RunState.SUCCEEDED,
            output=b"" if spec.deliver == "local" else session.run_id.encode(),
            usage=None if spec.token_budget is None else Usage(tokens=TOKENS),
        )


def make_runs(database: Database) -> Runs:
    """Return runs with short timeouts."""
    return Runs(
        database,
        redeliver_after_ms=REDELIVER_AFTER_MS,
        heartbeat_timeout_ms=HEARTBEAT_TIMEOUT_MS,
    )


def make_runner(settings: Settings) -> Runner:
    """Return a runner for this process."""
    database = open_database(settings)
    clock, runs = ServerClock(database.now_ms), make_runs(database)
    starts = Path(os.environ["SOAK_STARTS"])
    work = LineWork(starts, Crowds(open_database(settings), crowds_path(starts)), clock)
    return Runner(
        runs,
        heartbeats=Heartbeats(runs, clock=clock),
        work_for=lambda _: work,
        services=RunServices(
            limits=RunLimits(database, heartbeat_timeout_ms=HEARTBEAT_TIMEOUT_MS),
            listener=make_announcer(messages_of(make_app(settings))),
        ),
        clock=clock,
    )


def beat(settings: Settings) -> None:
    """Lead or stand by, for ever."""
    database, messages = open_database(settings), messages_of(make_app(settings))
    beat = assembled_beat(
        database,
        owner=owner_name(),
        clock=ServerClock(database.now_ms),
        make_due_index=lambda shard: DueIndex(
            database, shard=shard, redeliver_after_ms=REDELIVER_AFTER_MS
        ),
        runs=make_runs(database),
        messages=messages,
        waker=Waker(database),
        pause=time.sleep,
        on_pass=lambda token, now_ms: push_deliveries(
            database, messages, token=token, now_ms=now_ms
        ),
        sweep=None if os.environ.get("SOAK_MENDS") == "off" else make_sweep(settings),
    )
    while True:
        beat.step()


def consumer(settings: Settings) -> None:
    """Perform and deliver messages for ever; drop malformed ones."""
    database, runner = open_database(settings), make_runner(settings)
    deliverer, keys = make_deliverer(settings), database.keys
    name = f"consumer@{os.getpid()}"
    while True:
        try:
            answer = database.call("BRPOP", keys.default_queue, keys.delivery_queue, 1)
            if not answer:
                continue
            with suppress(*_MALFORMED):
                identity, session = unpacked(answer[1])
                if answer[0] == keys.delivery_queue:
                    deliverer.deliver(identity)
                else:
                    runner.perform(identity, message=TakenMessage(worker=name), session=session)
        except StoreError:
            time.sleep(_RETRY_SECONDS)


class SoakTask(RunTask):
    """The task of every run, with the soak's work."""

    abstract = True

    def runner_here(self) -> Runner:
        """Return the runner of this process."""
        cls = type(self)
        if cls._runner is None or cls._runner[0] != os.getpid():
            cls._runner = (os.getpid(), make_runner(app_settings(self.app)))
        return cls._runner[1]


def make_soak_app(settings: Settings) -> Celery:
    """Return our app with its run task replaced."""
    app = make_app(settings)
    app.finalize()
    app.tasks.pop(RUN_TASK)
    app.task(SoakTask.perform, name=RUN_TASK, base=SoakTask, bind=True, ignore_result=True)
    return app


def put_clock_wrong(seconds: float) -> None:
    """Shift `time.time` of this process, like the clock of a neglected machine."""
    true_time = time.time
    time.time = lambda: true_time() + seconds


def __getattr__(name: str) -> Celery:
    """Make the app when a worker asks for it."""
    if name == "app":
        put_clock_wrong(float(os.environ.get("SOAK_CLOCK_OFFSET", "0")))
        return make_soak_app(read_settings())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main(role: str) -> None:
    """Run a beat or a consumer."""
    die_with_parent()
    put_clock_wrong(float(os.environ.get("SOAK_CLOCK_OFFSET", "0")))
    roles: dict[str, Callable[[Settings], None]] = {"beat": beat, "consumer": consumer}
    roles[role](read_settings())


if __name__ == "__main__":
    main(sys.argv[1])
