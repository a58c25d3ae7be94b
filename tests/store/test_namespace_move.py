"""Tests of moving a project's jobs from the shared namespace to its own: which jobs, and when."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hermes_celery.core.job import Job
from hermes_celery.core.work import TaskCall
from hermes_celery.scheduling.namespace_move import NamespaceMove, OwnJobs, SecondBeat
from hermes_celery.store import Database, Formats, Neighbours, connect
from hermes_celery.store.keys import Keys
from tests.acl import documented_rules, user
from tests.support import HandClock, Store, a_job, replaced

_MANAGER = "project:shop"


class World:
    """A shared namespace, a project's own one, and the messages of the move."""

    def __init__(self, shared: Database, own: Database, clock: HandClock) -> None:
        self.shared, self.own, self.clock = Store(shared, clock), Store(own, clock), clock
        self.messages: list[str] = []
        self.over: list[str] = []
        self.second = _Wanted(lambda: _Idle(), clock=clock)
        self.moving = NamespaceMove(
            shared,
            own,
            own=OwnJobs(
                manager=_MANAGER, knows_task=lambda name: name in ("shop.work", "both.work")
            ),
            tell=self.messages.append,
            over=self.over.append,
            second=self.second,
        )

    def add(self, letter: str, *, task: str = "", manager: str | None = None) -> Job:
        call = TaskCall(name=task) if task else None
        job = a_job(id=letter * 12, task=call, prompt=None if task else "p", name=letter)
        return self.shared.jobs.add(replaced(job, spec=replaced(job.spec, managed_by=manager)))

    def old_worker(self, *, lives: bool) -> None:
        """Add a worker of 0.1.0 to the shared namespace, or remove it."""
        shared = self.shared.database
        if lives:
            shared.call("ZADD", shared.keys.workers, self.clock.ms, "old@host")
        else:
            shared.call("ZREM", shared.keys.workers, "old@host")

    def moved(self) -> set[str]:
        return {job.name for job in self.own.jobs.all()}

    def left(self) -> set[str]:
        return {job.name for job in self.shared.jobs.all()}


class _Wanted(SecondBeat):
    """A second beat that records whether it is to tick."""

    is_wanted = False

    def want(self) -> None:
        self.is_wanted = True
        super().want()

    def rest(self) -> None:
        self.is_wanted = False
        super().rest()


class _Idle:
    def step(self) -> None:
        pass

    def stop(self) -> None:
        pass


@pytest.fixture
def world(valkey: Database, namespace: str, clock: HandClock) -> Iterator[World]:
    clock.ms = valkey.now_ms()
    own = Database(valkey.client, keys=Keys(namespace=f"{namespace}-z"))
    world = World(valkey, own, clock)
    yield world
    world.moving.stop()


def test_only_declared_jobs_and_jobs_with_the_projects_own_tasks_move(world: World) -> None:
    world.add("a", task="shop.work", manager=_MANAGER)
    world.add("b", task="shop.work")
    world.add("c", task="mail.send")
    world.add("d")
    world.add("e", task="both.work")
    world.add("f", task="both.work", manager="project:blog")
    world.add("0", task="celery.backend_cleanup")
    assert world.moving.begin(world.clock.ms)
    world.moving.step(world.clock.ms)
    assert world.moved() == {"a", "b"}
    assert world.left() == {"c", "d", "e", "f", "0"}
    assert world.messages[-1].startswith("4 jobs in namespace ")
    Formats(world.shared.database).say_here("beat own", now_ms=world.clock.ms)
    # A beat serves the jobs that stay.
    world.moving.step(world.clock.ms)
    assert world.over


def test_nothing_moves_until_a_worker_of_0_1_0_is_gone_for_five_seconds(world: World) -> None:
    world.add("a", task="shop.work", manager=_MANAGER)
    keys = world.shared.database.keys
    world.shared.database.call("ZADD", keys.workers, world.clock.ms, "old@host")
    assert not world.moving.begin(world.clock.ms)
    assert world.moved() == set()
    assert "programs of version 0.1.0 are there (worker old@host)" in world.messages[-1]
    world.shared.database.call("ZREM", keys.workers, "old@host")
    # The old worker may restart, so the move waits for five seconds.
    assert not world.moving.step(world.clock.ms + 4_999)
    assert world.moving.step(world.clock.ms + 5_001)
    assert world.moved() == {"a"}
    assert world.moving.left == frozenset()


def test_a_job_that_is_running_is_reported_and_moves_later(world: World) -> None:
    world.add("a", task="shop.work", manager=_MANAGER)
    run_id = world.shared.cron.run("a" * 12)
    claim = world.shared.claim(run_id)
    # A worker of this version can finish a run in the namespace where it began.
    Formats(world.own.database).say_here("worker w@host", now_ms=world.clock.ms)
    assert world.moving.begin(world.clock.ms)
    assert world.moving.left == {"a" * 12}
    assert "once its run there has ended" in world.messages[-1]
    assert claim.run_id == run_id
    world.clock.advance(16)
    world.moving.step(world.clock.ms)
    assert world.moved() == {"a"}


def test_a_project_without_jobs_in_the_shared_namespace_moves_and_reports_nothing(
    world: World,
) -> None:
    world.add("d")
    assert world.moving.begin(world.clock.ms)
    world.moving.step(world.clock.ms)
    assert world.messages == []
    assert world.left() == {"d"}
    assert not Neighbours(world.shared.database, namespace="other").enter()


def test_a_job_that_0_1_0_adds_before_it_stops_moves_too(world: World) -> None:
    """The job was added after the first check."""
    world.add("a", task="shop.work", manager=_MANAGER)
    world.old_worker(lives=True)
    world.moving.begin(world.clock.ms)
    world.add("b", task="shop.work")
    world.old_worker(lives=False)
    world.moving.step(world.clock.ms + 5_001)
    assert world.moved() == {"a", "b"}


def test_a_job_added_during_the_move_moves_before_the_second_beat_ends(world: World) -> None:
    world.add("a", task="shop.work", manager=_MANAGER)
    world.shared.claim(world.shared.cron.run("a" * 12))
    Formats(world.own.database).say_here("worker w@host", now_ms=world.clock.ms)
    world.moving.begin(world.clock.ms)
    assert world.second.is_wanted
    world.add("b", task="shop.work")
    world.clock.advance(16)
    for _ in range(3):
        world.moving.step(world.clock.ms)
    assert world.moved() == {"a", "b"}
    assert not world.second.is_wanted
    assert len(world.over) == 1


def test_a_job_that_0_1_0_adds_after_the_move_is_ticked_and_moves_when_0_1_0_is_gone(
    world: World,
) -> None:
    world.add("a", task="shop.work", manager=_MANAGER)
    world.moving.begin(world.clock.ms)
    # The next leader begins with the same result.
    world.moving.begin(world.clock.ms)
    world.moving.step(world.clock.ms)
    assert (world.moved(), world.second.is_wanted) == ({"a"}, False)
    world.old_worker(lives=True)
    world.clock.advance(3)
    world.moving.step(world.clock.ms)
    assert world.second.is_wanted
    world.add("b", task="shop.work")
    world.old_worker(lives=False)
    for _ in range(3):
        world.clock.advance(3)
        world.moving.step(world.clock.ms)
    assert world.moved() == {"a", "b"}


def test_the_end_of_the_move_is_reported_once(world: World) -> None:
    for _ in range(3):
        world.moving.step(world.clock.ms)
    assert len(world.over) == 1


def test_a_job_that_may_belong_to_another_project_is_reported_by_name_and_stays(
    world: World,
) -> None:
    world.add("a", task="shop.work", manager=_MANAGER)
    world.add("e", task="both.work")
    world.add("f", task="both.work", manager="project:blog")
    world.moving.begin(world.clock.ms)
    world.moving.step(world.clock.ms)
    here, there = (one.database.keys.namespace for one in (world.shared, world.own))
    assert world.messages == [
        f"1 job in namespace '{here}' may belong to this project: e; it still runs there; move it "
        f"with `hermes-celery -N {there} move JOB`, or remove it with "
        f"`hermes-celery -N {here} remove JOB`"
    ]


def test_a_user_without_rights_to_the_shared_namespace_is_not_delayed(
    world: World, valkey_url: str, clock: HandClock
) -> None:
    """An ACL may restrict a Redis user to the project's own keys."""
    own = world.own.database.keys.namespace
    rules = [rule for rule in documented_rules("hermes") if not rule.startswith("~")]
    with user(valkey_url, [*rules, f"~{{{own}}}:*"]) as url:
        client = connect(url)
        shut_out = World(
            Database(client, keys=world.shared.database.keys),
            Database(client, keys=world.own.database.keys),
            clock,
        )
        assert shut_out.moving.begin(clock.ms)
        assert shut_out.moving.step(clock.ms)
        assert shut_out.messages == []
        client.close()
