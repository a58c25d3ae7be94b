"""Which queues have consumers that do not report: known from their answers, never guessed."""

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
    """What Celery's workers say, as a test wants it."""

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
    """A leader, a job with a task, and whoever answers."""

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
    assert world.why(a_spec()) == "", "our own kinds of work are nobody's but ours"


def test_that_nobody_is_there_says_nothing(world: World) -> None:
    world.why()
    world.look()
    assert world.why() == ""


def test_a_tick_asks_nothing_itself_and_queues_of_our_workers_are_not_asked_for(
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


def test_it_is_asked_again_while_nobody_of_ours_consumes_the_queue(world: World) -> None:
    world.foreign_worker()
    world.why()
    for _ in range(8):
        world.look(after_seconds=5)
    assert world.answers.asked == 3
    assert world.why()


def test_what_does_not_answer_any_more_is_forgotten_within_a_minute(world: World) -> None:
    world.foreign_worker()
    world.why()
    world.look()
    world.answers.queue_answers.clear()
    world.look(after_seconds=30)
    assert world.why()
    world.look(after_seconds=31)
    assert world.why() == ""


def test_a_worker_of_ours_beside_them_has_the_runs_followed(world: World) -> None:
    world.foreign_worker()
    world.why()
    world.look()
    world.our_worker()
    world.look()
    assert world.why() == ""


def test_a_worker_of_version_0_1_0_may_consume_it_too(world: World) -> None:
    world.foreign_worker()
    world.store.database.call(
        "ZADD", world.store.database.keys.workers, world.store.clock.ms, "old@host:3"
    )
    world.why()
    world.look()
    assert world.why() == ""


def test_a_worker_of_ours_that_starts_is_not_taken_for_a_foreign_one(world: World) -> None:
    """It answers before it gives its first sign."""
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


def test_two_workers_of_one_name_are_told_apart(world: World) -> None:
    """Both are `celery@host` where nobody named them."""
    world.answers.queue_answers = [("celery@here", {"mine"})]
    world.foreign_worker("celery@here")
    world.our_worker("celery@here:12", queue="mine")
    world.why()
    world.look()
    assert "celery@here" in world.why()


def test_a_worker_that_has_the_name_of_ours_is_known_by_its_queue(world: World) -> None:
    """Ours does not answer, as one that performs a task under `solo`."""
    world.foreign_worker("celery@here")
    world.our_worker("celery@here:12", queue="mine")
    world.why()
    world.look()
    assert "celery@here" in world.why()


def test_an_error_while_asking_changes_nothing(world: World) -> None:
    world.foreign_worker()
    world.why()
    world.look()
    world.answers.error = OSError("no route")
    with pytest.raises(OSError, match="no route"):
        world.look(after_seconds=20)
    assert world.why()


def test_the_next_leader_and_whoever_runs_by_hand_know_it_too(world: World) -> None:
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


def test_the_first_run_is_over_as_soon_as_it_is_known_who_took_it(world: World) -> None:
    """It is queued before the first answer, and keeps the next one from being dispatched."""
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
    """Also where workers of ours consume the queue as well."""
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


def test_one_that_answered_since_and_is_gone_may_have_taken_it(world: World) -> None:
    run = world.occur()
    world.foreign_worker()
    world.look()
    world.take()
    world.answers.queue_answers.clear()
    world.rescue(after_seconds=61)
    world.look(after_seconds=1)
    world.rescue(after_seconds=1)
    assert world.store.runs.get(run.id).state is RunState.SENT


def test_one_that_came_beside_ours_and_left_may_have_taken_what_was_queued(world: World) -> None:
    """An old worker that runs beside the new ones for some seconds, as in a rolling restart."""
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


def test_one_that_left_just_after_it_answered_may_have_taken_what_came_then(world: World) -> None:
    world.our_worker()
    world.foreign_worker("old@host")
    world.why()
    world.look()
    run = world.occur()  # nobody looked for a minute, and it is gone by the next look
    world.take()
    world.answers.queue_answers.clear()
    world.our_worker()
    world.look(after_seconds=3)
    world.rescue(after_seconds=61)
    world.our_worker()
    world.look(after_seconds=1)
    assert world.rescue(after_seconds=1).redelivered == 0
    assert world.store.runs.get(run.id).state is RunState.SENT


def test_what_was_queued_after_it_was_gone_is_pushed_again(world: World) -> None:
    """Also when the next leader knows of it by what was stored."""
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


def test_what_was_queued_long_after_one_beside_ours_left_is_pushed_again(world: World) -> None:
    """When it left is asked for while nothing is queued, too."""
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


def test_a_worker_of_ours_that_has_given_a_sign_by_now_took_nothing_in_silence(
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


def test_workers_that_are_down_for_a_deploy_make_no_run_sent(world: World) -> None:
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
    assert world.store.queue() == [run.id], "one copy, though it waits for long"
    world.foreign_worker()
    world.take()
    world.look(after_seconds=15)
    world.rescue()
    assert world.store.runs.get(run.id).state is RunState.SENT


def test_a_list_that_was_deleted_while_nobody_answers_is_pushed_again(world: World) -> None:
    world.foreign_worker()
    world.why()
    world.look()
    world.answers.queue_answers.clear()
    world.look(after_seconds=61)
    run = world.occur()
    world.take()
    assert world.rescue(after_seconds=61).redelivered == 0, "first it is asked who may have it"
    world.look(after_seconds=1)
    assert world.rescue(after_seconds=1).redelivered == 1
    assert world.store.queue() == [run.id]


def test_many_that_are_lost_at_once_are_asked_for_once(world: World) -> None:
    """A whole list that was deleted: no batch of them waits for an answer of its own."""
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


def test_whoever_came_just_now_is_asked_before_a_message_is_pushed_again(world: World) -> None:
    """A worker that took it between the last question and now is not overlooked."""
    run = world.occur()
    world.look()
    world.take()
    world.rescue(after_seconds=61)
    world.foreign_worker()
    world.look(after_seconds=1)
    assert world.rescue(after_seconds=1).redelivered == 0
    assert world.store.runs.get(run.id).state is RunState.SENT


def test_a_message_that_came_back_to_its_queue_gets_no_second_copy(world: World) -> None:
    """As Celery gives back what a worker had in hand when it stopped."""
    run = world.occur()
    world.take()
    world.rescue(after_seconds=61)
    world.look(after_seconds=1)
    world.store.database.call("LPUSH", world.queue, run.id)
    assert world.rescue(after_seconds=1).redelivered == 0
    assert world.store.queue() == [run.id]


def test_an_asker_that_hangs_keeps_no_lost_message_back_for_ever(world: World) -> None:
    run = world.occur()
    world.take()
    assert world.rescue(after_seconds=61).redelivered == 0
    assert world.rescue(after_seconds=21).redelivered == 1
    assert world.store.queue() == [run.id]


def test_a_leader_without_that_knowledge_pushes_as_before(store: Store) -> None:
    world = World(store)
    run = world.occur()
    store.clock.advance(61)
    report = Rescuer(store.jobs, store.runs, store.messages).rescue(
        token=TOKEN, now_ms=store.clock.ms
    )
    assert report.redelivered == 1
    assert store.queue() == [run.id, run.id]


def test_it_is_told_once_and_work_of_our_own_kinds_there_is_trouble(world: World) -> None:
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
