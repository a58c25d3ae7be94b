"""Tests of a runner that meets broken keys and errors around its work."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from hermes_celery.core.job import JobRequest, JobSpec
from hermes_celery.core.run import DeliveryState, Outcome, RunState, Usage
from hermes_celery.errors import RecordBroken
from hermes_celery.running.heartbeat import Heartbeats, RunningRun
from hermes_celery.running.runner import Runner, RunServices
from hermes_celery.running.taken_message import TakenMessage
from hermes_celery.session import Session
from hermes_celery.store import Claim, FollowUp, RunLimits
from tests.support import HandClock, Store


class Counting:
    """Work that counts its calls, and spoils a key meanwhile."""

    def __init__(self, store: Store, spoils: str = "") -> None:
        self.done = 0
        self._store = store
        self._spoils = spoils

    def perform(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        self.done += 1
        if self._spoils:
            self._store.database.call("SET", self._spoils, "x")
        return Outcome(state=RunState.SUCCEEDED, output=b"done")


def runner(store: Store, work: Counting, *, mends: bool) -> Runner:
    def mend(job_id: str, error: RecordBroken) -> None:
        if mends:
            store.database.call("DEL", error.key)

    return Runner(
        store.runs,
        heartbeats=Heartbeats(store.runs, clock=store.clock),
        work_for=lambda _: work,
        clock=store.clock,
        services=RunServices(limits=RunLimits(store.database), mend=mend),
        pause=lambda seconds: store.clock.advance(seconds),
    )


def queued(store: Store, **fields: int | str) -> str:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", **fields))  # type: ignore[arg-type]
    return store.cron.run(job.id)


def perform(store: Store, work: Counting, run_id: str, *, mends: bool = True) -> str:
    return runner(store, work, mends=mends).perform(
        run_id, message=TakenMessage(worker="w"), session=Session()
    )


@pytest.mark.parametrize("spoilt", ["heartbeats", "active", "group"])
def test_a_broken_key_at_the_start_is_repaired_and_the_run_starts(
    store: Store, spoilt: str
) -> None:
    run_id, keys = queued(store, group="g", group_limit=1), store.database.keys
    names = {"heartbeats": keys.heartbeats, "active": keys.active(run_id[:12]),
             "group": keys.group("g")}  # fmt: skip
    store.database.call_many([("DEL", names[spoilt]), ("SET", names[spoilt], "x")])
    work = Counting(store)
    assert perform(store, work, run_id) == "succeeded"
    assert work.done == 1
    assert store.runs.get(run_id).state is RunState.SUCCEEDED


def test_a_key_that_cannot_be_repaired_leaves_the_run_queued(store: Store) -> None:
    run_id = queued(store)
    store.database.call_many(
        [("DEL", key := store.database.keys.active(run_id[:12])), ("SET", key, "x")]
    )
    work = Counting(store)
    with pytest.raises(RecordBroken):
        perform(store, work, run_id, mends=False)
    assert work.done == 0
    assert store.runs.get(run_id).state is RunState.QUEUED


def test_a_result_is_written_after_the_broken_key_is_repaired(store: Store) -> None:
    run_id = queued(store)
    work = Counting(store, spoils=store.database.keys.active(run_id[:12]))
    assert perform(store, work, run_id) == "succeeded"
    assert work.done == 1
    assert store.runs.output(run_id) == b"done"


def test_a_run_of_an_unreadable_job_fails_with_that_reason(store: Store) -> None:
    run_id = queued(store)
    store.database.call("HSET", store.database.keys.job(run_id[:12]), "spec", "{not json")
    work = Counting(store)
    assert perform(store, work, run_id) == "failed"
    run = store.runs.get(run_id)
    assert (work.done, run.state) == (0, RunState.FAILED)
    assert "unreadable" in (run.error or "")


class FailingAnnouncer:
    """An announcer that raises unexpected errors."""

    def __init__(self, *, at_start: bool = False) -> None:
        self._at_start = at_start

    def started(self, claim: Claim) -> None:
        if self._at_start:
            raise KeyError("start")

    def follow_up(self, claim: Claim, outcome: Outcome) -> FollowUp:
        raise LookupError("no route to the queue of deliveries")


class Ending:
    """Work that returns a given outcome."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def perform(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        return self._outcome


def failing_hear(outcome: Outcome) -> None:
    raise ValueError("nobody listens")


def failing_repair(job_id: str, error: RecordBroken) -> None:
    raise TypeError("cannot mend")


def patient(
    store: Store,
    outcome: Outcome,
    *,
    listener: FailingAnnouncer | None = None,
    mend: Callable[[str, RecordBroken], None] = failing_repair,
) -> Runner:
    return Runner(
        store.runs,
        heartbeats=Heartbeats(store.runs, clock=store.clock),
        work_for=lambda _: Ending(outcome),
        clock=store.clock,
        services=RunServices(limits=RunLimits(store.database), listener=listener, mend=mend),
        pause=lambda seconds: store.clock.advance(seconds),
    )


_DONE = Outcome(state=RunState.SUCCEEDED, output=b"done")
_BROKE = Outcome(state=RunState.FAILED, output=b"half", error="it broke")


@pytest.mark.parametrize("outcome", [_DONE, _BROKE], ids=["succeeded", "failed"])
def test_a_run_ends_and_its_delivery_is_due_although_its_message_cannot_be_built(
    store: Store, caplog: pytest.LogCaptureFixture, outcome: Outcome
) -> None:
    run_id = queued(store, deliver="telegram:1")
    with caplog.at_level(logging.INFO):
        answer = patient(store, outcome, listener=FailingAnnouncer(at_start=True)).perform(
            run_id, message=TakenMessage(worker="w"), session=Session(), hear=failing_hear
        )
    run = store.runs.get(run_id)
    assert (answer, run.state, run.error) == (outcome.state, outcome.state, outcome.error)
    assert store.runs.output(run_id) == outcome.output
    # The leader pushes the missing message.
    assert run.delivery is DeliveryState.PENDING
    store.clock.advance(3600)
    due = store.database.call("ZRANGE", store.database.keys.deliveries, 0, -1)
    assert due == [run_id]
    for event in ("run.start_untold", "run.end_untold", "run.delivery_not_begun"):
        assert event in caplog.text
    assert "no route to the queue of deliveries" in caplog.text


def test_a_run_ends_although_its_usage_cannot_be_booked(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", token_budget=10))
    run_id = store.cron.run(job.id)
    usage = Usage(tokens=10, cost_usd="\udcff")  # type: ignore[arg-type]
    outcome = Outcome(state=RunState.SUCCEEDED, output=b"done", usage=usage)
    assert (
        patient(store, outcome).perform(run_id, message=TakenMessage(worker="w"), session=Session())
        == "succeeded"
    )
    assert store.runs.output(run_id) == b"done"


class Stumbling(HandClock):
    """A clock that raises OverflowError once when `stumbles` is set."""

    stumbles = False

    def now_ms(self) -> int:
        if self.stumbles:
            self.stumbles = False
            raise OverflowError("no such time")
        return super().now_ms()


def test_an_end_that_failed_to_be_written_is_written_with_that_error(store: Store) -> None:
    run_id, clock = queued(store), Stumbling()

    def stumble(outcome: Outcome) -> None:
        clock.stumbles = True

    runner = Runner(
        store.runs,
        heartbeats=Heartbeats(store.runs, clock=store.clock),
        work_for=lambda _: Ending(_BROKE),
        clock=clock,
    )
    assert (
        runner.perform(run_id, message=TakenMessage(worker="w"), session=Session(), hear=stumble)
        == "failed"
    )
    run = store.runs.get(run_id)
    assert run.state is RunState.FAILED
    assert run.error == "it broke (recording its end: OverflowError: no such time)"
    assert store.runs.output(run_id) == b"half"


def test_a_failing_repair_loses_no_result(store: Store) -> None:
    run_id = queued(store)
    key = store.database.keys.active(run_id[:12])
    work = Counting(store, spoils=key)
    tried: list[str] = []

    def mend(job_id: str, error: RecordBroken) -> None:
        tried.append(error.key)
        if len(tried) == 1:
            raise TypeError("cannot mend")
        store.database.call("DEL", error.key)

    patiently = patient(store, _DONE, mend=mend)
    answer = patiently.perform(
        run_id, message=TakenMessage(worker="w"), session=Session(), work=work
    )
    assert (answer, work.done, tried) == ("succeeded", 1, [key, key])
