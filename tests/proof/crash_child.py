"""The work of a child process until it dies, put together as `wiring.beat` does.

Only two parts are replaced, because they would cost real time: the clock is set by hand, and nobody
sleeps. Queue, messages and scripts are the real ones. A run writes down that it started, and does
nothing else.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from celery import Celery, Task

from hermes_celery.celery_app.messages import MessageBuilder
from hermes_celery.clock import Clock
from hermes_celery.core.job import JobSpec
from hermes_celery.core.run import Outcome, RunState, Usage
from hermes_celery.core.work import TaskCall
from hermes_celery.errors import StoreError
from hermes_celery.instant import from_ms
from hermes_celery.running.heartbeat import Heartbeats, RunningRun
from hermes_celery.running.runner import Runner, RunServices
from hermes_celery.running.taken_message import TakenMessage
from hermes_celery.scheduling.beat import Beat
from hermes_celery.scheduling.leader_duties import LeaderDuties, LeaderHooks
from hermes_celery.scheduling.lease import Lease
from hermes_celery.scheduling.living_beats import LivingBeats
from hermes_celery.scheduling.run_rescue import Rescuer
from hermes_celery.scheduling.shard import Shard
from hermes_celery.scheduling.sweep import Sweep
from hermes_celery.session import HEADER, Session, from_header
from hermes_celery.settings import read_settings
from hermes_celery.store import (
    BrokenJob,
    Database,
    DueIndex,
    History,
    Jobs,
    Retention,
    RunLimits,
    Runs,
    Shards,
    Waker,
)
from hermes_celery.store.keys import Keys
from hermes_celery.wiring.own_app import make_app
from tests.proof.crashing_connections import Calls, watch
from tests.proof.delivery_receipts import far_end, make_announcer, make_deliverer, push_deliveries
from tests.proof.fork_server import Act, Orders
from tests.proof.history import note_start
from tests.proof.known_bugs import KnownBug, TwoSteps, open_planted
from tests.proof.limits_check import TOKENS, Crowds
from tests.support import HandClock, messages_of

NAMESPACE = "proof"
#: A task whose project runs code of its own for each message.
LATE = TaskCall(name="proof.late")
KEYS = Keys(namespace=NAMESPACE)
REDELIVER_AFTER_MS = 90_000
HEARTBEAT_TIMEOUT_MS = 3_000
#: Longer than a new leader waits before its first rescue.
RESCUE_SECONDS = 6.0
_HEARTBEAT_PATIENCE_SECONDS = 5.0


def warm_up() -> None:
    """Do once what every child would otherwise have to do first."""
    messages_of(celery_app()).message(
        JobSpec(id="a" * 12, name="", schedule="", schedule_display="", anchor_ms=0, created_ms=0),
        run_id="",
        due_ms=0,
    )


class _Stamped(Task):  # type: ignore[misc]  # Celery carries no types
    """A project's task base class: its messages are built one by one, when they are due."""

    abstract = True

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Publish with a header of the project's own."""
        headers = {**(options.pop("headers", None) or {}), "correlation": secrets.token_hex(4)}
        return super().apply_async(*args, headers=headers, **options)


def _late() -> None:
    """Do nothing: only the message of this task is needed, workers here note starts."""


@cache
def celery_app() -> Celery:
    """Return an app with our configuration; nothing connects to its broker's address."""
    app = make_app(
        read_settings(
            {"HERMES_REDIS_URL": "redis://127.0.0.1:1", "HERMES_CELERY_NAMESPACE": NAMESPACE}
        )
    )
    app.task(_late, name=LATE.name, base=_Stamped)
    assert LATE.name in app.tasks
    return app


class Impatient(Waker):
    """A waker that checks for a wake-up call and never waits for one."""

    def wait(self, seconds: float) -> bool:
        """Check once, without waiting."""
        return super().wait(0)


def make_beat(
    database: Database,
    *,
    owner: str,
    clock: Clock,
    plant: KnownBug = KnownBug.NONE,
    delivers: bool = False,
) -> Beat:
    """Return a beat on hand-set time."""
    messages = messages_of(celery_app())
    return assembled_beat(
        database,
        owner=owner,
        clock=clock,
        make_due_index=lambda shard: TwoSteps(
            database, shard=shard, redeliver_after_ms=REDELIVER_AFTER_MS, plant=plant
        ),
        runs=make_runs(database),
        messages=messages,
        waker=Impatient(database),
        on_pass=lambda token, now_ms: (
            push_deliveries(database, messages, token=token, now_ms=now_ms) if delivers else None
        ),
    )


def assembled_beat(
    database: Database,
    *,
    owner: str,
    clock: Clock,
    make_due_index: Callable[[int], DueIndex],
    runs: Runs,
    messages: MessageBuilder,
    waker: Waker,
    pause: Callable[[float], None] = lambda _: None,
    on_pass: Callable[[int, int], None] = lambda token, now_ms: None,
    sweep: Sweep | None = None,
) -> Beat:
    """Return a beat made of the given parts, as `make_beat` of the wiring makes one.

    It deletes no history. With a `sweep` it compares all records and repairs them, as real beats
    do.
    """

    def on_fault(fault: BrokenJob) -> None:
        if sweep is not None and fault.key:
            sweep.broken(fault.job_id, fault.key, now_ms=clock.now_ms())

    return Beat(
        LivingBeats(Shards(database), owner=owner, clock=clock),
        lambda number: Shard(
            number,
            lease=Lease(database, owner=owner, clock=clock, shard=number),
            due_index=make_due_index(number),
            messages=messages,
            clock=clock,
        ),
        LeaderDuties(
            Rescuer(Jobs(database), runs, messages),
            History(database, retention=Retention(runs_per_job=1_000_000)),
            clock=clock,
            hooks=LeaderHooks(
                on_pass=on_pass,
                sweep=(lambda token, now_ms: False) if sweep is None else sweep.step,
                on_fault=on_fault,
            ),
        ),
        waker=waker,
        clock=clock,
        pause=pause,
    )


def make_runs(database: Database) -> Runs:
    """Return runs with short timeouts."""
    return Runs(
        database,
        redeliver_after_ms=REDELIVER_AFTER_MS,
        heartbeat_timeout_ms=HEARTBEAT_TIMEOUT_MS,
    )


class _HeartbeatsSeen(Runs):
    """Runs that set the event `given` when a heartbeat was written."""

    def __init__(self, database: Database) -> None:
        super().__init__(
            database,
            redeliver_after_ms=REDELIVER_AFTER_MS,
            heartbeat_timeout_ms=HEARTBEAT_TIMEOUT_MS,
        )
        self.given = threading.Event()

    def heartbeat(self, claims: Mapping[str, str], *, now_ms: int, **more: Any) -> dict[str, str]:
        """Write the heartbeat, then set the event."""
        try:
            return super().heartbeat(claims, now_ms=now_ms, **more)
        finally:
            self.given.set()


class NotedWork:
    """Work that writes down that it started, and then waits for the event `awaits`."""

    def __init__(
        self,
        starts: Path,
        *,
        awaits: threading.Event | None = None,
        crowds: Crowds | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._starts = starts
        self._awaits = awaits
        self._crowds = crowds
        self._clock = clock

    def perform(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        """Note the start and succeed; a job called `fails` fails in its first attempt."""
        note_start(self._starts, session.run_id, session.attempt or 0)
        if self._crowds is not None and self._clock is not None:
            self._crowds.look(spec, now_ms=self._clock.now_ms())
        if self._awaits is not None:
            self._awaits.wait(_HEARTBEAT_PATIENCE_SECONDS)
        failed = spec.name == "fails" and session.attempt == 1
        return Outcome(
            state=RunState.FAILED if failed else RunState.SUCCEEDED,
            output=f"{session.run_id}\n".encode(),
            usage=None if spec.token_budget is None else Usage(tokens=TOKENS),
        )


class Consumer:
    """A worker without Celery: takes messages and performs their runs."""

    def __init__(
        self,
        database: Database,
        runs: Runs,
        work: NotedWork,
        clock: HandClock,
        *,
        delivers: bool = False,
    ) -> None:
        self._database = database
        self._runner = Runner(
            runs,
            heartbeats=Heartbeats(runs, clock=clock),
            work_for=lambda _: work,
            clock=clock,
            services=RunServices(
                limits=RunLimits(database, heartbeat_timeout_ms=HEARTBEAT_TIMEOUT_MS),
                listener=make_announcer(messages_of(celery_app())) if delivers else None,
            ),
            pause=clock.advance,
        )

    def take_one(self) -> bool:
        """Perform the run of the oldest message; return False when there is none."""
        raw = self._database.call("RPOP", KEYS.default_queue)
        if raw is None:
            return False
        run_id, session = unpacked(str(raw))
        # A Celery worker goes on after a task that raised.
        with suppress(StoreError):
            self._runner.perform(run_id, message=TakenMessage(worker="w@host"), session=session)
        return True


class Postman:
    """A worker without Celery that performs deliveries."""

    def __init__(self, database: Database, clock: Clock, starts: Path) -> None:
        self._database = database
        self._deliverer = make_deliverer(database, clock, far_end(starts))

    def take_one(self) -> bool:
        """Perform the delivery of the oldest message; return False when there is none."""
        raw = self._database.call("RPOP", KEYS.delivery_queue)
        if raw is None:
            return False
        delivery_id, _ = unpacked(str(raw))
        with suppress(StoreError):
            self._deliverer.deliver(delivery_id)
        return True


def unpacked(message: str) -> tuple[str, Session]:
    """Return the run id and the session in a Celery message from the queue."""
    envelope = json.loads(message)
    session = from_header(envelope["headers"][HEADER])
    if envelope["headers"]["task"] == LATE.name:
        return session.run_id, session
    (run_id,), *_ = json.loads(base64.b64decode(envelope["body"]))
    return run_id, session


def perform(orders: Orders, report: Callable[[str], None]) -> None:
    """Carry out the orders in this process."""
    calls = Calls(
        orders.point, url=orders.url, report=report, counts=lambda t: _counts(orders.threads, t)
    )
    if orders.act is Act.CELERY:
        from tests.proof.crash_child_celery import work_as_celery  # imports this module

        work_as_celery(orders, calls)
        return
    clock = HandClock(from_ms(orders.now_ms))
    plant = KnownBug(orders.plant)
    database = watch(open_planted(orders.url, KEYS, plant), calls)
    if orders.act is Act.BEAT:
        beat = make_beat(
            database, owner="child", clock=clock, plant=plant, delivers=orders.delivers
        )
        _lead(beat, clock, calls)
    elif orders.act is Act.POSTMAN:
        postman = Postman(database, clock, Path(orders.starts))
        while postman.take_one() and not calls.resumed:
            pass
    else:
        _consume(database, clock, orders, calls)


def _counts(threads: str, thread: threading.Thread) -> bool:
    """Return whether calls of this thread count; `threads` is `all`, `main` or `pool`."""
    is_main = thread is threading.main_thread()
    is_ours = thread.name.startswith("hermes-")
    return {"all": True, "main": is_main, "pool": not (is_main or is_ours)}[threads]


def _lead(beat: Beat, clock: HandClock, calls: Calls) -> None:
    """Tick, write the steps planned ahead, rescue, then stop.

    A process that was frozen and resumed stops after its current step.
    """
    for seconds in (1, RESCUE_SECONDS, 0):
        beat.step()
        if calls.resumed:
            break
        clock.advance(seconds)
    beat.stop()


def _consume(database: Database, clock: HandClock, orders: Orders, calls: Calls) -> None:
    """Perform the runs on the queue until it is empty."""
    runs, starts = _HeartbeatsSeen(database), Path(orders.starts)
    work = NotedWork(
        starts,
        awaits=runs.given if orders.heartbeats else None,
        crowds=Crowds.of(database, orders.url, starts),
        clock=clock,
    )
    consumer = Consumer(database, runs, work, clock, delivers=orders.delivers)
    while consumer.take_one() and not calls.resumed:
        runs.given.clear()
