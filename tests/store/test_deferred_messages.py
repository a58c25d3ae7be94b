"""Tests of messages that are built after their run was admitted: once, also when building fails."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from hermes_celery.core.built_message import STAND_IN, BuildOutcome, BuiltMessage
from hermes_celery.core.job import JobRequest, JobSpec, JobState
from hermes_celery.core.policy import Overlap, Policy
from hermes_celery.core.run import DeliveryState, Outcome, RunState, message_id_of
from hermes_celery.scheduling.look_ahead import LookAhead
from hermes_celery.scheduling.run_rescue import Rescuer, RescueReport
from hermes_celery.scheduling.tick import JOBS_PER_CALL, MOST_BUILT, Ticker, TickReport
from tests.support import NOON, PlainMessages, Store, a_job

TOKEN = 1


@pytest.fixture(autouse=True)
def _a_leader(store: Store) -> None:
    store.database.call("SET", store.database.keys.term, TOKEN)


def ticked(store: Store) -> TickReport:
    return Ticker(store.due, store.messages).tick(token=TOKEN, now_ms=store.clock.ms)


def rescued(store: Store) -> RescueReport:
    return Rescuer(store.jobs, store.runs, store.messages).rescue(
        token=TOKEN, now_ms=store.clock.ms
    )


class BuiltLate(PlainMessages):
    """Messages that are built after their run was admitted; building fails for the job `bad`."""

    def __init__(self, queue: str) -> None:
        super().__init__(queue)
        self.built: list[str] = []
        self.way = BuildOutcome.PUSH
        self.place = f"{queue}:elsewhere"

    def pushed(self, store: Store) -> list[str]:
        """Return the messages on the queue that building chose, newest first."""
        return list(store.database.call("LRANGE", self.place, 0, -1))

    def message(
        self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int = 1, push: int = 0
    ) -> bytes:
        return STAND_IN + b"stand-in"

    def build(
        self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int = 1, push: int = 0
    ) -> BuiltMessage:
        self.built.append(run_id)
        if spec.name == "bad":
            raise RuntimeError("unforeseen")
        if self.way is not BuildOutcome.PUSH:
            return BuiltMessage(way=self.way, why="its own code did it")
        return BuiltMessage(queue=self.place, message=message_id_of(run_id, push=push).encode())


@pytest.fixture
def late(store: Store) -> BuiltLate:
    store.messages = BuiltLate(store.database.keys.default_queue)
    return store.messages


def test_a_message_that_cannot_be_built_fails_its_run_and_no_other(
    store: Store, late: BuiltLate
) -> None:
    for name in ("bad", "good"):
        store.cron.add(JobRequest(schedule="every 1h", prompt="x", name=name))
    for _ in range(2):
        store.clock.advance(3600)
        report = ticked(store)
        assert report.broken == 0
    bad = store.cron.show("bad")
    assert (bad.state, bad.next_run_at) == (JobState.SCHEDULED, NOON + timedelta(hours=3))
    runs = store.cron.latest_runs("bad")
    assert [run.state for run in runs] == [RunState.FAILED, RunState.FAILED]
    assert runs[0].error == "its message could not be published: RuntimeError: unforeseen"
    # The failure is delivered, like any other.
    assert runs[0].delivery is DeliveryState.PENDING
    (good, _) = store.cron.latest_runs("good")
    assert good.reason == "overlap: an earlier run still waits for a worker"


def test_a_deferred_message_is_built_once_and_only_for_a_run_that_starts(
    store: Store, late: BuiltLate
) -> None:
    store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="good"))
    store.clock.advance(3600)
    ticked(store)
    store.clock.advance(59)
    assert rescued(store).redelivered == 0
    store.clock.advance(3541)
    ticked(store)
    skipped, run = store.cron.latest_runs("good")
    assert late.built == [run.id]
    assert skipped.state is RunState.SKIPPED
    assert late.pushed(store) == [run.id]
    assert store.queue() == []
    # A lost message is pushed to the same queue again.
    assert rescued(store).redelivered == 1
    assert late.pushed(store) == [f"{run.id}.1", run.id]


def test_rescue_soon_asks_again_for_a_message_that_is_still_being_built(
    store: Store, late: BuiltLate
) -> None:
    for name in ("good", "other"):
        store.cron.add(JobRequest(schedule="every 1h", prompt="x", name=name))
    store.clock.advance(3600)
    late.way = BuildOutcome.PENDING
    ticked(store)
    store.clock.advance(0.3)
    assert rescued(store).redelivered == 0
    assert late.pushed(store) == []
    late.way = BuildOutcome.PUSH
    assert rescued(store).redelivered == 2
    runs = [store.cron.latest_runs(name)[0] for name in ("good", "other")]
    assert {run.state for run in runs} == {RunState.QUEUED}
    assert sorted(late.pushed(store)) == sorted(run.id for run in runs)


def test_a_leader_that_died_before_the_push_leaves_the_message_to_rescue(
    store: Store, late: BuiltLate
) -> None:
    store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="good"))
    store.clock.advance(3600)

    class Dies(BuiltLate):
        def build(self, spec: JobSpec, **_: Any) -> BuiltMessage:
            raise SystemExit

    with pytest.raises(SystemExit):
        Ticker(store.due, Dies("q")).tick(token=TOKEN, now_ms=store.clock.ms)
    (run,) = store.cron.latest_runs()
    assert (run.state, store.queue()) == (RunState.QUEUED, [])
    store.clock.advance(2.1)
    assert rescued(store).redelivered == 1
    assert late.pushed(store) == [run.id]


@pytest.mark.parametrize(
    ("way", "state"),
    [
        (BuildOutcome.NOWHERE, RunState.SKIPPED),
        (BuildOutcome.UNFOLLOWED, RunState.SENT),
        (BuildOutcome.ELSEWHERE, RunState.QUEUED),
    ],
)
def test_the_record_says_what_the_projects_code_did_with_the_message(
    store: Store, late: BuiltLate, way: BuildOutcome, state: RunState
) -> None:
    late.way = way
    store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="good"))
    store.clock.advance(3600)
    ticked(store)
    (run,) = store.cron.latest_runs("good")
    assert run.state is state
    if state is not RunState.QUEUED:
        assert run.reason == "its own code did it"
    assert late.pushed(store) == []
    assert rescued(store).redelivered == 0


def test_the_message_of_a_held_run_is_built_when_the_run_before_it_ends(
    store: Store, late: BuiltLate
) -> None:
    policy = Policy(overlap=Overlap.QUEUE_ONE)
    store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="good", policy=policy))
    for _ in range(2):
        store.clock.advance(3600)
        ticked(store)
    held, first = store.cron.latest_runs("good")
    assert late.built == [first.id]
    store.runs.finish(
        store.claim(first.id), Outcome(state=RunState.SUCCEEDED), now_ms=store.clock.ms
    )
    assert store.queue() == []
    assert rescued(store).redelivered == 1
    assert late.built == [first.id, held.id]
    assert late.pushed(store) == [held.id, first.id]


def test_the_message_of_a_manual_run_is_built_once_by_the_caller(
    store: Store, late: BuiltLate
) -> None:
    for name in ("good", "bad"):
        store.cron.add(JobRequest(schedule="every 1h", prompt="x", name=name))
    run_id = store.cron.run("good")
    failed_id = store.cron.run("bad")
    assert late.built == [run_id, failed_id]
    assert late.pushed(store) == [run_id]
    assert store.runs.get(failed_id).state is RunState.FAILED
    store.clock.advance(21)
    assert rescued(store).redelivered == 0


def test_messages_of_a_backfill_are_built_one_after_the_other(
    store: Store, late: BuiltLate
) -> None:
    store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="good"))
    store.clock.advance(2.5 * 3600)
    end = NOON + timedelta(hours=2, minutes=1)
    made = store.cron.backfill("good", start=NOON, end=end)
    assert (len(made), late.built) == (2, [])
    assert rescued(store).redelivered == 1
    assert late.built == made[:1]


def test_a_message_that_may_still_arrive_is_not_given_up_because_of_a_lock(
    store: Store, late: BuiltLate
) -> None:
    """A lock such as celery-once's is also held by a message that waits behind a backlog."""
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="bad"))
    store.messages = PlainMessages(store.database.keys.default_queue)
    run_id = store.cron.run(job.id)
    store.messages = late
    store.clock.advance(61)
    assert rescued(store).redelivered == 0
    assert store.runs.get(run_id).state is RunState.QUEUED
    store.clock.advance(62)
    rescued(store)
    assert late.built == [run_id]
    # Celery itself gives up after an hour.
    store.clock.advance(3_700)
    rescued(store)
    assert store.runs.get(run_id).state is RunState.FAILED


def test_a_tick_builds_a_limited_number_of_messages(store: Store, late: BuiltLate) -> None:
    for number in range(MOST_BUILT + JOBS_PER_CALL):
        store.jobs.add(a_job(id=f"{number:012x}"))
    store.clock.advance(3600)
    standing = float
    reports = [
        Ticker(store.due, late, monotonic=standing).tick(token=TOKEN, now_ms=store.clock.ms)
        for _ in range(2)
    ]
    assert [report.dispatched for report in reports] == [MOST_BUILT, JOBS_PER_CALL]
    assert len(late.built) == MOST_BUILT + JOBS_PER_CALL


def test_a_tick_whose_messages_take_long_to_build_ends_and_the_next_one_goes_on(
    store: Store, late: BuiltLate
) -> None:
    for number in range(50):
        store.jobs.add(a_job(id=f"{number:012x}"))
    store.clock.advance(3600)

    def reading() -> float:
        return len(late.built) * 0.02

    def once() -> TickReport:
        return Ticker(store.due, late, monotonic=reading).tick(token=TOKEN, now_ms=store.clock.ms)

    reports = [once() for _ in range(4)]
    assert [report.dispatched for report in reports] == [20, 20, 10, 0]
    # Every occurrence that was taken has its message.
    assert len(late.pushed(store)) == 50
    assert rescued(store).redelivered == 0


def test_messages_built_one_by_one_are_not_prepared_ahead(store: Store, late: BuiltLate) -> None:
    store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    ahead = LookAhead(store.due, late)
    store.clock.advance(3599)
    while ahead.look(store.clock.ms):
        pass
    assert len(ahead) == 0


def test_a_pass_of_rescue_whose_messages_take_long_to_build_ends_and_has_more_to_do(
    store: Store, late: BuiltLate
) -> None:
    store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="good"))
    store.clock.advance(30.5 * 3600)
    end = NOON + timedelta(hours=30, minutes=1)
    store.cron.backfill("good", start=NOON, end=end, one_by_one=False, per_minute=60_000)
    store.clock.advance(1)

    def reading() -> float:
        return len(late.built) * 0.02

    def once() -> RescueReport:
        return Rescuer(store.jobs, store.runs, late, monotonic=reading).rescue(
            token=TOKEN, now_ms=store.clock.ms
        )

    reports = [once() for _ in range(3)]
    assert [(report.redelivered, report.has_more) for report in reports] == [
        (13, True),
        (13, True),
        (4, False),
    ]
