"""A call of the project's code that hangs delays its own job only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import pytest
from celery import Celery, current_app

from hermes_celery.celery_app.message_time_limit import BoundedMessages
from hermes_celery.core.built_message import BuildOutcome, BuiltMessage
from hermes_celery.core.job import JobSpec
from hermes_celery.errors import JobError
from hermes_celery.scheduling.planned_runs import BuildsMessages
from tests.pace import own_seconds
from tests.support import a_spec, eventually, replaced

_RUN = "aaaaaaaaaaaa-20260622T120000Z"
_word: ContextVar[str] = ContextVar("word", default="")


class Slow:
    """A message builder that calls a function of the test while it builds."""

    def __init__(self) -> None:
        self.work: Callable[[], object] = lambda: None
        self.calls = 0

    def queue(self, spec: JobSpec) -> str:
        return "celery"

    def message(
        self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int = 1, push: int = 0
    ) -> bytes:
        return b" "

    def build(
        self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int = 1, push: int = 0
    ) -> BuiltMessage:
        self.calls += 1
        self.work()
        return BuiltMessage(queue="celery", message=spec.name.encode())

    def runs_again(self, spec: JobSpec) -> bool:
        return False


class World:
    """Messages with a time limit, on a real clock that a test can move forward."""

    def __init__(self) -> None:
        self.slow = Slow()
        self.told: list[tuple[str, str]] = []
        self.ahead = 0.0
        self.bounded = BoundedMessages(
            self.slow,
            on_hang=lambda spec, what: self.told.append((spec.name, what)),
            monotonic=lambda: time.monotonic() + self.ahead,
        )
        self.free = threading.Event()

    def hang(self) -> None:
        self.free.wait(30)

    def end_late(self, spec: JobSpec, *, seconds: float) -> None:
        """Let a call for a job take some seconds and end, without reading its result."""
        threads: list[threading.Thread] = []

        def work() -> None:
            threads.append(threading.current_thread())
            self.hang()

        self.slow.work = work
        assert self.build(spec).way is BuildOutcome.PENDING
        self.ahead += seconds
        self.free.set()
        # A thread whose call took too long ends together with the call.
        threads[0].join(10)
        assert not threads[0].is_alive()
        self.slow.work = lambda: None

    def build(self, spec: JobSpec, *, run_id: str = _RUN) -> BuiltMessage:
        messages: BuildsMessages = self.bounded
        return messages.build(spec, run_id=run_id, due_ms=1)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.free.set()


_A = replaced(a_spec(), id="a" * 12, name="a")
_B = replaced(a_spec(), id="b" * 12, name="b")


def test_a_slow_call_is_pending_and_its_result_is_read_later(
    world: World,
) -> None:
    renewed: list[bool] = []
    world.bounded.meanwhile = lambda: renewed.append(True)
    world.slow.work = world.hang
    began = own_seconds()
    assert world.build(_A).way is BuildOutcome.PENDING
    assert own_seconds() - began < 1.5
    assert renewed
    assert world.build(_A).way is BuildOutcome.PENDING
    world.slow.work = lambda: None
    assert world.build(_B).message == b"b"
    world.free.set()
    built = eventually(lambda: (b := world.build(_A)).way is BuildOutcome.PUSH and b)
    assert built.message == b"a"  # type: ignore[union-attr]  # `eventually` returned a true value
    assert world.slow.calls == 2
    assert not world.told


def test_a_hanging_call_fails_its_run_and_blocks_its_job_until_it_ends(
    world: World,
) -> None:
    world.slow.work = world.hang
    world.build(_A)
    world.slow.work = lambda: None
    assert world.build(_A, run_id="next").way is BuildOutcome.PENDING, "it may end in time"
    world.ahead = 2.0
    with pytest.raises(JobError, match=r"did not return within 2 s"):
        world.build(_A)
    assert world.told == [("a", "its apply_async did not return within 2 s")]
    with pytest.raises(JobError, match="still hangs, since 2 s"):
        world.build(_A, run_id="next")
    assert world.slow.calls == 1
    assert [name for name, _ in world.told] == ["a", "a"]
    assert world.build(_B).message == b"b"
    world.free.set()
    eventually(lambda: _builds(world, _A, "next"), what="another build for the job")


def test_once_a_hanging_call_has_failed_other_calls_are_waited_for(world: World) -> None:
    world.slow.work = world.hang
    world.build(_A)
    moment = threading.Event()
    world.slow.work = lambda: bool(moment.wait(30))
    assert world.build(_B).way is BuildOutcome.PENDING, (
        "no call is waited for while another one hangs"
    )
    moment.set()
    eventually(lambda: _builds(world, _B, _RUN))
    moment.clear()
    world.ahead = 2.0
    with pytest.raises(JobError, match="did not return"):
        world.build(_A)
    world.bounded.meanwhile = moment.set
    assert world.build(_B).message == b"b"


def test_at_most_32_calls_run_at_once(world: World) -> None:
    world.slow.work = world.hang
    for number in range(33):
        job = replaced(a_spec(), id=f"{number:012x}", name=str(number))
        assert world.build(job).way is BuildOutcome.PENDING
    assert world.slow.calls == 32
    world.ahead = 2.0
    for number in range(32):
        with pytest.raises(JobError, match="did not return"):
            world.build(replaced(a_spec(), id=f"{number:012x}", name=str(number)))
    with pytest.raises(JobError, match="32 other jobs"):
        world.build(_A)


def test_an_unread_result_delays_later_runs_of_its_job_by_20_seconds_only(world: World) -> None:
    """A result is not read if its run was cancelled meanwhile."""
    world.end_late(_A, seconds=1.0)
    assert world.build(_A, run_id="next").way is BuildOutcome.PENDING
    world.ahead += 19.0
    assert world.build(_A, run_id="next").way is BuildOutcome.PENDING, "the 20 s count from its end"
    world.ahead += 2.0
    assert _builds(world, _A, "next")


@pytest.mark.parametrize("is_next_built", [True, False])
def test_a_result_can_be_read_late_and_nothing_is_called_twice(
    world: World, is_next_built: bool
) -> None:
    world.end_late(_A, seconds=1.9)
    world.ahead += 800.0
    if is_next_built:
        assert _builds(world, _A, "next")
    assert _builds(world, _A, _RUN)
    assert world.slow.calls == 1 + is_next_built


def test_a_result_after_the_time_limit_serves_a_run_that_is_still_open(
    world: World,
) -> None:
    world.slow.work = world.hang
    world.build(_A)
    world.ahead = 2.0
    with pytest.raises(JobError, match="did not return"):
        world.build(_A)
    world.free.set()
    eventually(lambda: _builds(world, _A, _RUN), what="the result")
    assert world.slow.calls == 1


def test_an_unread_result_is_dropped_after_15_minutes(world: World) -> None:
    world.end_late(_A, seconds=1.0)
    world.ahead += 901.0
    assert _builds(world, _B, "another")
    assert _builds(world, _A, _RUN)
    assert world.slow.calls == 3


def _builds(world: World, spec: JobSpec, run_id: str) -> bool:
    try:
        return world.build(spec, run_id=run_id).way is BuildOutcome.PUSH
    except JobError:
        return False


def test_calls_run_in_the_callers_context_and_in_one_thread(world: World) -> None:
    seen: list[tuple[str, object, int]] = []
    app = Celery("shop", set_as_current=False)
    before = current_app._get_current_object()
    world.slow.work = lambda: seen.append(
        (_word.get(), current_app._get_current_object(), threading.get_ident())
    )
    try:
        app.set_current()
        for word in ("one", "two"):
            _word.set(word)
            world.build(a_spec())
    finally:
        before.set_current()
    assert [one[:2] for one in seen] == [("one", app), ("two", app)]
    assert len({one[2] for one in seen}) == 1


def test_an_exception_of_the_call_is_raised(world: World) -> None:
    def fail() -> None:
        raise OSError("no route")

    world.slow.work = fail
    with pytest.raises(OSError, match="no route"):
        world.build(a_spec())
    assert not world.told
