"""Tests of queues with consumers that do not report runs: found by asking the workers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest

from hermes_celery.core.incidents import TroubleKind
from hermes_celery.core.job import JobRequest, JobSpec
from hermes_celery.core.run import Run, RunState
from hermes_celery.core.work import TaskCall
from hermes_celery.delivering.queue_watch import QueueWatch
from hermes_celery.scheduling.foreign_workers import ForeignWorkers
from hermes_celery.scheduling.run_rescue import Rescuer, RescueReport
from hermes_celery.scheduling.tick import Ticker
from hermes_celery.store import DueIndex, ForeignQueues, QueueLoad, WorkerSign
from tests.support import Store, a_spec

TOKEN = 7


class Answers:
    """Fake answers of Celery workers."""

    def __init__(self) -> None:
        self.queue_answers: list[tuple[str, set[str]]] = []
        self.hooked: set[str] = set()
        self.error: Exception | None = None
        self.asked = 0

    def queues(self) -> Sequence[tuple[str, Collection[str]]]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.queue_answers

    def with_hooks(self, workers: Collection[str]) -> Collection[str]:
        return self.hooked.intersection(workers)


class World:
    """A leader, a job with a task, and the workers that answer."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.queue = store.database.keys.default_queue
        store.database.call("SET", store.database.keys.term, TOKEN)
        self.answers = Answers()
        self.foreign = self.leader()
        self.spec = store.cron.add(
            JobRequest(schedule="every 1m", task=TaskCall(name="svc.tick"), name="n")
        ).spec

    def leader(self) -> ForeignWorkers:
        return ForeignWorkers(
            self.store.database,
            asking=self.answers,
            clock=self.store.clock,
            begin=lambda loop: None,
        )

    def foreign_worker(self, name: str = "svc@host") -> None:
        self.answers.queue_answers.append((name, {self.queue, "other"}))

    def our_worker(self, name: str = "celery@here:12", *, queue: str = "") -> None:
        now_ms = self.store.clock.ms
        sign = WorkerSign(seen_ms=now_ms, queues={queue or self.queue: now_ms})
        QueueLoad(self.store.database).say(name, sign, taken={}, now_ms=now_ms)

    def look(self, *, after_seconds: float = 0) -> None:
        self.store.clock.advance(after_seconds)
        self.foreign.look(self.store.clock.ms)

    def why(self, spec: JobSpec | None = None) -> str:
        return self.foreign.why_sent(spec or self.spec, self.queue)

    def occur(self) -> Run:
        self.store.clock.advance(60)
        due = DueIndex(self.store.database, why_sent=self.foreign.why_sent)
        Ticker(due, self.store.messages).tick(token=TOKEN, now_ms=self.store.clock.ms)
        return self.store.cron.latest_runs("n")[0]

    def take(self) -> None:
        assert self.store.database.call("RPOP", self.queue)

    def rescue(self, *, after_seconds: float = 0) -> RescueReport:
        self.store.clock.advance(after_seconds)
        return Rescuer(
            self.store.jobs, self.store.runs, self.store.messages, foreign=self.foreign
        ).rescue(token=TOKEN, now_ms=self.store.clock.ms)


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


def test_a_queue_is_foreign_when_a_worker_without_our_hooks_says_so(world: World) -> None:
    world.foreign_worker()
    assert world.why() == ""
    world.look()
    assert "svc@host" in world.why()
    assert world.why(a_spec()) == "", "only our own workers perform prompts and scripts"


def test_a_queue_without_consumers_is_not_foreign(world: World) -> None:
    world.why()
    world.look()
    assert world.why() == ""


def test_a_tick_asks_no_worker_and_queues_of_our_workers_are_not_asked_about_again(
    world: World,
) -> None:
    world.our_worker()
    world.why()
    assert world.answers.asked == 0
    world.look()
    assert world.answers.asked == 1
    world.our_worker()
    world.look(after_seconds=9)
    world.our_worker()
    world.look(after_seconds=9)
    assert world.answers.asked == 1


def test_workers_are_asked_again_while_no_worker_of_ours_consumes_the_queue(world: World) -> None:
    world.foreign_worker()
    world.why()
    for _ in range(8):
        world.look(after_seconds=5)
    assert world.answers.asked == 3
    assert world.why()


def test_a_foreign_worker_that_stops_answering_is_forgotten_within_a_minute(world: World) -> None:
    world.foreign_worker()
    world.why()
    world.look()
    world.answers.queue_answers.clear()
    world.look(after_seconds=30)
    assert world.why()
    world.look(after_seconds=31)
    assert world.why() == ""


def test_a_queue_that_a_worker_of_ours_also_consumes_is_not_foreign(world: World) -> None:
    world.foreign_worker()
    world.why()
    world.look()
    world.our_worker()
    world.look()
    assert world.why() == ""


def test_a_queue_that_a_worker_of_0_1_0_may_consume_is_not_foreign(world: World) -> None:
    world.foreign_worker()
    world.store.database.call(
        "ZADD", world.store.database.keys.workers, world.store.clock.ms, "old@host:3"
    )
    world.why()
    world.look()
    assert world.why() == ""


def test_a_worker_of_ours_that_is_starting_is_not_foreign(world: World) -> None:
    """The worker answers Celery before it writes its first sign."""
    world.foreign_worker("celery@here")
    world.answers.hooked = {"celery@here"}
    world.why()
    world.look()
    assert world.why() == ""
    world.our_worker()
    world.look(after_seconds=1)
    assert world.why() == ""


def test_a_worker_with_hooks_of_another_namespace_is_foreign_after_a_minute(world: World) -> None:
    world.foreign_worker("celery@there")
    world.answers.hooked = {"celery@there"}
    world.why()
    for _ in range(5):
        world.look(after_seconds=16)
    assert world.why()


def test_two_workers_of_one_name_are_distinguished_by_their_queues(world: World) -> None:
    """Workers without a given name are all called `celery@host`."""
    world.answers.queue_answers = [("celery@here", {"mine"})]
    world.foreign_worker("celery@here")
    world.our_worker("celery@here:12", queue="mine")
    world.why()
    world.look()
    assert "celery@here" in world.why()


def test_a_foreign_worker_with_the_same_name_as_ours_is_recognised_by_its_queue(
    world: World,
) -> None:
    """Our worker does not answer, like one that performs a task under `solo`."""
    world.foreign_worker("celery@here")
    world.our_worker("celery@here:12", queue="mine")
    world.why()
    world.look()
    assert "celery@here" in world.why()


def test_an_error_while_asking_keeps_the_last_answer(world: World) -> None:
    world.foreign_worker()
    world.why()
    world.look()
    world.answers.error = OSError("no route")
    with pytest.raises(OSError, match="no route"):
        world.look(after_seconds=20)
    assert world.why()


def test_the_answer_is_stored_for_the_next_leader_and_for_manual_runs(world: World) -> None:
    world.foreign_worker()
    world.why()
    world.look()
    stored = ForeignQueues(world.store.database)
    now_ms = world.store.clock.ms
    assert "svc@host" in stored.why_sent(world.queue, now_ms=now_ms)
    assert stored.why_sent("other", now_ms=now_ms) == "", "no task of ours goes there"
    world.answers.error = OSError("no answer yet")
    world.foreign = world.leader()
    world.foreign.begin()
    with pytest.raises(OSError, match="no answer yet"):
        world.look()
    assert world.occur().state is RunState.SENT


def test_the_first_run_ends_as_sent_once_its_foreign_worker_is_known(world: World) -> None:
    """The run is queued before the first answer, and blocks the next occurrence until then."""
    first = world.occur()
    world.foreign_worker()
    assert first.state is RunState.QUEUED
    world.look()
    assert world.rescue().sent == 0, "its message waits on the queue"
    world.take()
    assert world.rescue().sent == 1
    assert world.store.runs.get(first.id).state is RunState.SENT
    assert world.occur().state is RunState.SENT


def test_a_message_that_a_foreign_worker_took_is_never_pushed_again(world: World) -> None:
    """The same holds where workers of ours consume the queue too."""
    world.our_worker()
    run = world.occur()
    world.foreign_worker()
    world.take()
    assert world.rescue(after_seconds=61).redelivered == 0
    world.our_worker()
    world.look(after_seconds=1)
    assert world.rescue(after_seconds=1).redelivered == 0
    ended = world.store.runs.get(run.id)
    assert ended.state is RunState.SENT
    assert "taken from queue" in (ended.reason or "")
    assert world.store.queue() == []


def test_a_foreign_worker_that_answered_and_left_may_have_taken_the_message(world: World) -> None:
    run = world.occur()
    world.foreign_worker()
    world.look()
    world.take()
    world.answers.queue_answers.clear()
    world.rescue(after_seconds=61)
    world.look(after_seconds=1)
    world.rescue(after_seconds=1)
    assert world.store.runs.get(run.id).state is RunState.SENT


def test_a_foreign_worker_that_ran_briefly_beside_ours_may_have_taken_the_message(
    world: World,
) -> None:
    """In a rolling restart an old worker runs beside the new ones for some seconds."""
    world.our_worker()
    world.look()
    run = world.occur()
    world.take()
    world.our_worker()
    world.foreign_worker("old@host")
    world.look(after_seconds=4)
    world.answers.queue_answers.clear()
    world.look(after_seconds=4)
    world.rescue(after_seconds=61)
    world.our_worker()
    world.look(after_seconds=1)
    assert world.rescue(after_seconds=1).redelivered == 0
    ended = world.store.runs.get(run.id)
    assert ended.state is RunState.SENT
    assert "perhaps by old@host" in (ended.reason or "")


def test_a_foreign_worker_that_left_after_its_answer_may_have_taken_a_later_message(
    world: World,
) -> None:
    world.our_worker()
    world.foreign_worker("old@host")
    world.why()
    world.look()
    run = world.occur()  # a minute without a look; the worker is gone at the next one
    world.take()
    world.answers.queue_answers.clear()
    world.our_worker()
    world.look(after_seconds=3)
    world.rescue(after_seconds=61)
    world.our_worker()
    world.look(after_seconds=1)
    assert world.rescue(after_seconds=1).redelivered == 0
    assert world.store.runs.get(run.id).state is RunState.SENT


def test_a_message_queued_after_the_foreign_worker_left_is_pushed_again(world: World) -> None:
    """The next leader decides by the stored answers."""
    world.foreign_worker("old@host")
    world.why()
    world.look()
    world.answers.queue_answers.clear()
    world.look(after_seconds=16)
    world.foreign = world.leader()
    world.foreign.begin()
    run = world.occur()
    world.take()
    world.rescue(after_seconds=61)
    world.look(after_seconds=1)
    assert world.rescue(after_seconds=1).redelivered == 1
    assert world.store.queue() == [run.id]


def test_a_message_queued_long_after_the_foreign_worker_beside_ours_left_is_pushed_again(
    world: World,
) -> None:
    """Workers are asked also while nothing is queued, so the time of leaving is known."""
    world.our_worker()
    world.foreign_worker("old@host")
    world.why()
    world.look()
    world.answers.queue_answers.clear()
    for _ in range(4):
        world.our_worker()
        world.look(after_seconds=5)
    run = world.occur()
    world.take()
    world.our_worker()
    world.look(after_seconds=3)
    world.rescue(after_seconds=61)
    world.our_worker()
    world.look(after_seconds=1)
    assert world.rescue(after_seconds=1).redelivered == 1
    assert world.store.queue() == [run.id]


def test_a_worker_of_ours_that_wrote_its_sign_later_has_not_taken_the_message(
    world: World,
) -> None:
    run = world.occur()
    world.foreign_worker("celery@here")
    world.answers.hooked = {"celery@here"}
    world.take()
    world.look()
    world.our_worker()
    world.rescue(after_seconds=61)
    world.our_worker()
    world.look(after_seconds=1)
    assert world.rescue(after_seconds=1).redelivered == 1
    assert world.store.queue() == [run.id]


def test_no_run_ends_as_sent_while_the_workers_are_down_for_a_deploy(world: World) -> None:
    world.foreign_worker()
    world.why()
    world.look()
    world.answers.queue_answers.clear()
    world.look(after_seconds=61)
    run = world.occur()
    for _ in range(10):
        world.look(after_seconds=60)
        world.rescue()
    assert world.store.runs.get(run.id).state is RunState.QUEUED
    assert world.store.queue() == [run.id], "one copy, although it waits for ten minutes"
    world.foreign_worker()
    world.take()
    world.look(after_seconds=15)
    world.rescue()
    assert world.store.runs.get(run.id).state is RunState.SENT


def test_messages_of_a_deleted_queue_are_pushed_again_while_no_worker_answers(world: World) -> None:
    world.foreign_worker()
    world.why()
    world.look()
    world.answers.queue_answers.clear()
    world.look(after_seconds=61)
    run = world.occur()
    world.take()
    assert world.rescue(after_seconds=61).redelivered == 0, (
        "workers are asked first who may have it"
    )
    world.look(after_seconds=1)
    assert world.rescue(after_seconds=1).redelivered == 1
    assert world.store.queue() == [run.id]


def test_workers_are_asked_once_for_many_lost_messages(world: World) -> None:
    """After a whole queue was deleted, batches do not each wait for an answer of their own."""
    for number in range(120):
        call = TaskCall(name="svc.tick")
        world.store.cron.add(JobRequest(schedule="every 1h", task=call, name=f"j{number}"))
        world.store.cron.run(f"j{number}")
    world.store.database.call("DEL", world.queue)
    assert world.rescue(after_seconds=61).redelivered == 0
    world.look(after_seconds=1)
    asked = world.answers.asked
    world.foreign_worker()
    pushed = 0
    for _ in range(20):  # three passes do it; on a busy machine each may end early
        pushed += world.rescue(after_seconds=0.05).redelivered
    assert pushed == 120
    assert world.answers.asked == asked
    assert len(world.store.queue()) == 120


def test_a_worker_that_came_just_now_is_asked_before_a_message_is_pushed_again(
    world: World,
) -> None:
    """It may have taken the message since the last question."""
    run = world.occur()
    world.look()
    world.take()
    world.rescue(after_seconds=61)
    world.foreign_worker()
    world.look(after_seconds=1)
    assert world.rescue(after_seconds=1).redelivered == 0
    assert world.store.runs.get(run.id).state is RunState.SENT


def test_a_message_that_returned_to_its_queue_gets_no_second_copy(world: World) -> None:
    """Celery returns the messages that a stopping worker has taken and not begun."""
    run = world.occur()
    world.take()
    world.rescue(after_seconds=61)
    world.look(after_seconds=1)
    world.store.database.call("LPUSH", world.queue, run.id)
    assert world.rescue(after_seconds=1).redelivered == 0
    assert world.store.queue() == [run.id]


def test_a_hanging_question_delays_a_lost_message_for_20_seconds_at_most(world: World) -> None:
    run = world.occur()
    world.take()
    assert world.rescue(after_seconds=61).redelivered == 0
    assert world.rescue(after_seconds=21).redelivered == 1
    assert world.store.queue() == [run.id]


def test_a_rescuer_without_foreign_workers_pushes_without_asking(store: Store) -> None:
    world = World(store)
    run = world.occur()
    store.clock.advance(61)
    report = Rescuer(store.jobs, store.runs, store.messages).rescue(
        token=TOKEN, now_ms=store.clock.ms
    )
    assert report.redelivered == 1
    assert store.queue() == [run.id, run.id]


def test_a_foreign_queue_is_reported_as_news_and_a_prompt_queued_on_it_as_a_trouble(
    world: World,
) -> None:
    world.foreign_worker()
    world.why()
    world.look()
    world.store.cron.add(JobRequest(schedule="every 1m", prompt="x", name="ours"))
    world.occur()
    watch = QueueWatch(world.store.database)
    found, _ = watch.look(world.store.clock.ms)
    news, trouble = sorted(found, key=lambda one: one.is_news, reverse=True)
    assert (news.kind, news.subject) == (TroubleKind.UNFOLLOWED, world.queue)
    assert "svc@host without Cron(app)" in news.text
    assert (trouble.kind, trouble.subject) == (TroubleKind.QUEUE, world.queue)
    assert "Cron 'ours'" in trouble.text
