"""Tests of work that goes on after its run was stopped or ended: killed, or reported."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hermes_celery.core.incidents import TroubleKind
from hermes_celery.core.job import JobRequest, JobSpec
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.running.heartbeat import STUCK_SECONDS, Heartbeats, RunningRun
from hermes_celery.running.runner import Runner, RunServices
from hermes_celery.running.stuck_work import (
    PATIENCE_SECONDS,
    HeldMessage,
    PoolSlotGuard,
    StuckWorkHandler,
)
from hermes_celery.running.taken_message import TakenMessage
from hermes_celery.session import Session
from hermes_celery.store import Claim, Runs, TroubleSigns
from tests.store.delivering_host import DeliveringHost, at
from tests.store.test_watchdog import reporter, watchdog
from tests.support import HandClock, Store, eventually

WORKER = "w@host"


class Pool:
    """A worker's pool: the messages that its processes hold, and the killed processes."""

    def __init__(self, store: Store) -> None:
        self.held: list[HeldMessage] = []
        self.killed: list[int] = []
        self.guard = PoolSlotGuard(
            store.runs,
            worker=WORKER,
            held=lambda: list(self.held),
            kill=self.killed.append,
            clock=store.clock,
        )


@pytest.fixture
def pool(store: Store) -> Pool:
    return Pool(store)


def claimed(store: Store, pool: Pool, **fields: object) -> tuple[str, Claim]:
    """Claim a run for a process of the pool, and let the guard see it."""
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", **fields))  # type: ignore[arg-type]
    run_id = store.cron.run(job.id)
    claim = store.claim(run_id)
    pool.held = [HeldMessage(run_id=run_id, pid=7, since=1.0)]
    assert pool.guard.look() == []
    return run_id, claim


def looks(store: Store, pool: Pool, seconds: float) -> list[int]:
    for _ in range(int(seconds)):
        pool.guard.look()
        store.clock.advance(1)
    return pool.killed


def taken_away(store: Store, run_id: str) -> None:
    """Invalidate the claim, as when its heartbeat stopped."""
    key = store.database.keys.run(run_id)
    store.database.call("HDEL", key, "claim")
    store.database.call("HSET", key, "state", "lost")


def test_a_process_whose_run_is_lost_is_killed_after_a_while(store: Store, pool: Pool) -> None:
    run_id, _ = claimed(store, pool)
    assert looks(store, pool, 60) == []
    taken_away(store, run_id)
    assert looks(store, pool, PATIENCE_SECONDS) == []
    assert looks(store, pool, 2)[:1] == [7]


def test_a_process_whose_run_was_claimed_by_another_is_killed_too(store: Store, pool: Pool) -> None:
    run_id, _ = claimed(store, pool)
    store.database.call("HSET", store.database.keys.run(run_id), "claim", "another's")
    assert looks(store, pool, PATIENCE_SECONDS + 2)[:1] == [7]


def test_a_process_that_recorded_its_runs_end_is_not_killed(store: Store, pool: Pool) -> None:
    _, claim = claimed(store, pool)
    store.runs.finish(claim, Outcome(state=RunState.SUCCEEDED), now_ms=store.clock.ms)
    assert looks(store, pool, 100) == []


def test_a_run_that_is_valid_again_or_gone_kills_no_process(store: Store, pool: Pool) -> None:
    run_id, _ = claimed(store, pool)
    key = store.database.keys.run(run_id)
    taken_away(store, run_id)
    looks(store, pool, PATIENCE_SECONDS - 2)
    store.database.call("HSET", key, "claim", "t1")
    looks(store, pool, 2)
    taken_away(store, run_id)
    assert looks(store, pool, PATIENCE_SECONDS - 2) == []
    store.database.call("DEL", key)
    assert looks(store, pool, 60) == []


def test_the_next_message_in_the_same_process_starts_a_new_patience(
    store: Store, pool: Pool
) -> None:
    run_id, _ = claimed(store, pool)
    store.database.call("HSET", store.database.keys.run(run_id), "claim", "t2")
    looks(store, pool, 10)
    pool.held = [HeldMessage(run_id=run_id, pid=7, since=2.0)]
    assert looks(store, pool, 60) == []


class UnstoppableWork:
    """Work that ignores every stop and returns when `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def perform(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        self.release.wait(30)
        return Outcome(state=RunState.SUCCEEDED)


class NotingHandler:
    """A handler of stuck work that only notes its calls."""

    def __init__(self, *, can_end: bool) -> None:
        self._can_end = can_end
        self.calls: list[str] = []

    def can_end(self, worker: str) -> bool:
        return self._can_end

    def end(self, claim: Claim) -> None:
        self.calls.append("end")

    def tell(self, claim: Claim, worker: str) -> None:
        self.calls.append("tell")

    def over(self, claim: Claim, worker: str) -> None:
        self.calls.append("over")


@pytest.mark.parametrize("can_end", [True, False])
def test_work_that_ignores_a_stop_is_ended_or_reported_after_ten_seconds(
    store: Store, can_end: bool
) -> None:
    work, handler = UnstoppableWork(), NotingHandler(can_end=can_end)
    runner = Runner(
        store.runs,
        heartbeats=Heartbeats(store.runs, clock=store.clock),
        work_for=lambda _: work,
        clock=store.clock,
        services=RunServices(stuck_work=lambda: handler),
    )
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    run_id = store.cron.run(job.id)
    states: list[str] = []
    thread = threading.Thread(
        target=lambda: states.append(
            runner.perform(run_id, message=TakenMessage(worker=WORKER), session=Session())
        ),
        daemon=True,
    )
    thread.start()
    try:
        eventually(lambda: store.runs.get(run_id).state is RunState.RUNNING, what="the start")
        store.cron.cancel(run_id)
        eventually(lambda: stepped(store, handler), what="the reaction")
    finally:
        work.release.set()
    thread.join(10)
    if can_end:
        assert handler.calls[0] == "end"
        run = store.runs.get(run_id)
        assert run.state is RunState.CANCELLED
        assert b"so its process was killed" in store.runs.stderr(run_id)
    else:
        assert handler.calls == ["tell", "over"]


class BackAtTheLastMoment(Runs):
    """Runs whose work returns while its end is being written."""

    work: UnstoppableWork
    is_back: Callable[[], bool]

    def finish(self, claim: Claim, outcome: Outcome, **given: Any) -> str:
        if outcome.state is RunState.CANCELLED:
            self.work.release.set()
            eventually(self.is_back, what="the work to return")
        return super().finish(claim, outcome, **given)


class WatchedHeartbeats(Heartbeats):
    """Heartbeats that set an event when they have reacted to stuck work."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.runs, clock=store.clock)
        self.has_reacted = threading.Event()

    @contextmanager
    def sent_for(
        self, claim: Claim, *, on_stuck: Callable[[RunningRun], None] = lambda run: None
    ) -> Iterator[RunningRun]:
        def react(run: RunningRun) -> None:
            on_stuck(run)
            self.has_reacted.set()

        with super().sent_for(claim, on_stuck=react) as running:
            yield running


def test_a_process_whose_work_returned_while_its_end_was_written_is_not_killed(
    store: Store,
) -> None:
    work, handler = UnstoppableWork(), NotingHandler(can_end=True)
    runs = BackAtTheLastMoment(store.database)
    runs.work, runs.is_back = work, lambda: bool(handler.calls)
    heartbeats = WatchedHeartbeats(store)
    runner = Runner(
        runs,
        heartbeats=heartbeats,
        work_for=lambda _: work,
        clock=store.clock,
        services=RunServices(stuck_work=lambda: handler),
    )
    run_id = store.cron.run(store.cron.add(JobRequest(schedule="every 1h", prompt="x")).id)
    thread = threading.Thread(
        target=lambda: runner.perform(
            run_id, message=TakenMessage(worker=WORKER), session=Session()
        ),
        daemon=True,
    )
    thread.start()
    try:
        eventually(lambda: store.runs.get(run_id).state is RunState.RUNNING, what="the start")
        store.cron.cancel(run_id)
        eventually(lambda: stepped(store, handler), what="the reaction")
        assert heartbeats.has_reacted.wait(10)
    finally:
        work.release.set()
    assert handler.calls == ["over"]


def test_work_does_not_return_while_its_process_is_being_ended() -> None:
    running, ended = RunningRun(), threading.Event()
    back = threading.Thread(target=running.returned)

    def end() -> None:
        back.start()
        back.join(0.1)
        assert not running.is_back
        ended.set()

    running.unless_back(end)
    back.join(10)
    assert ended.is_set()
    assert running.is_back
    running.unless_back(lambda: pytest.fail("it is back"))


def stepped(store: Store, handler: NotingHandler) -> bool:
    """Advance the clock by half a second; return whether the handler was called."""
    store.clock.advance(0.5)
    return bool(handler.calls)


@pytest.fixture
def host(valkey: object, clock: HandClock, tmp_path: object) -> DeliveringHost:
    return at(valkey, clock, tmp_path)  # type: ignore[arg-type]


def test_the_incident_of_stuck_work_names_the_run_and_ends_with_it(host: DeliveringHost) -> None:
    store = host.store
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="slow"))
    claim = store.claim(store.cron.run(job.id))
    stuck_work = StuckWorkHandler(
        reporter=reporter(host, alerts="local"), incidents=host.incidents, clock=store.clock
    )
    stuck_work.tell(claim, WORKER)
    (incident,) = host.incidents.open()
    assert incident.kind is TroubleKind.STUCK
    for word in ("Cron 'slow'", claim.run_id, WORKER, "restart that worker"):
        assert word in incident.text
    stuck_work.over(claim, WORKER)
    assert host.incidents.open() == []


def test_the_incident_of_stuck_work_ends_with_its_worker_too(host: DeliveringHost) -> None:
    store, keys = host.store, host.store.database.keys
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="slow"))
    claim = store.claim(store.cron.run(job.id))
    StuckWorkHandler(
        reporter=reporter(host, alerts="local"), incidents=host.incidents, clock=store.clock
    ).tell(claim, WORKER)
    scan = watchdog(host)
    store.database.call("ZADD", keys.workers, store.clock.ms, WORKER)
    scan.scan(store.clock.ms)
    assert len(host.incidents.open()) == 1
    store.clock.advance(11)
    scan.scan(store.clock.ms)
    assert host.incidents.open() == []
    assert not TroubleSigns(store.database).is_worker_there(WORKER, store.clock.ms)


def test_only_a_pool_process_may_end_itself(host: DeliveringHost) -> None:
    stuck_work = StuckWorkHandler(
        reporter=reporter(host, alerts="local"), incidents=host.incidents, clock=host.store.clock
    )
    assert stuck_work.can_end(f"w@host:{os.getppid()}")
    assert not stuck_work.can_end(f"w@host:{os.getpid()}")
    assert not stuck_work.can_end("w@host")
    assert STUCK_SECONDS < PATIENCE_SECONDS
