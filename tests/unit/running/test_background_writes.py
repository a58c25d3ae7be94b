"""Background writes keep their order, are repeated while Redis is away, and fail alone."""

from __future__ import annotations

import logging
import multiprocessing
import threading

import pytest

from hermes_celery.errors import RecordBroken, StoreUnavailable
from hermes_celery.running.background_writes import BackgroundWrites
from tests.support import eventually, without_threads


def test_writes_are_done_in_order_and_fail_alone() -> None:
    done: list[str] = []
    writes = BackgroundWrites()

    def broken() -> None:
        raise RecordBroken("key", "is a list")

    def unforeseen() -> None:
        raise RuntimeError("unforeseen")

    for write in (lambda: done.append("first"), broken, unforeseen, lambda: done.append("last")):
        writes.later("one", write)
    assert writes.drain(10)
    assert done == ["first", "last"]


def test_a_write_is_repeated_until_redis_answers() -> None:
    answers = iter([StoreUnavailable("away"), StoreUnavailable("away"), None])
    pauses: list[float] = []

    def ask() -> None:
        answer = next(answers)
        if answer is not None:
            raise answer

    writes = BackgroundWrites(pause=pauses.append)
    writes.later("one", ask)
    assert writes.drain(10)
    assert pauses == [1.0, 1.0]
    assert next(answers, "all") == "all"


def test_a_write_dropped_from_a_full_queue_is_counted_as_undone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, go, done = threading.Event(), threading.Event(), list[int]()
    writes = BackgroundWrites(most=3)

    def hold() -> None:
        begun.set()
        go.wait(10)

    writes.later("the one that holds up", hold)
    assert begun.wait(10)
    with caplog.at_level(logging.ERROR, logger="hermes_celery"):
        for number in range(5):
            writes.later(f"number {number}", lambda number=number: done.append(number))  # type: ignore[misc]
        go.set()
        assert not writes.drain(10)
    assert done == [2, 3, 4]
    assert [line for line in caplog.messages if line.startswith("write.dropped")]
    assert [line for line in caplog.messages if line == "writes.undone count=2"]
    assert writes.drain(10)


def test_a_write_that_redis_never_accepted_counts_as_undone() -> None:
    def away() -> None:
        raise StoreUnavailable("away")

    writes = BackgroundWrites(pause=lambda seconds: None, patience_seconds=0.0)
    writes.later("one", away)
    assert not writes.drain(10)
    assert writes.drain(10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_writes_continue_after_their_thread_has_ended() -> None:
    writes, done, threads = BackgroundWrites(), list[str](), list[threading.Thread]()

    def end_the_thread() -> None:
        threads.append(threading.current_thread())
        raise SystemExit

    writes.later("one", end_the_thread)
    eventually(lambda: threads and not threads[0].is_alive(), what="the end of the thread")
    writes.later("another", lambda: done.append("another"))
    assert writes.drain(10)
    assert done == ["another"]


@pytest.mark.parametrize("next_one", ["drain", "later"])
def test_writes_wait_if_no_thread_can_be_started_and_are_retried_later(
    caplog: pytest.LogCaptureFixture, next_one: str
) -> None:
    writes, done = BackgroundWrites(), list[str]()
    with without_threads(), caplog.at_level(logging.ERROR, logger="hermes_celery"):
        writes.later("one", lambda: done.append("one"))
        writes.later("two", lambda: done.append("two"))
        assert not writes.drain(0.01)
    assert caplog.messages == ['writes.no_thread why="can\'t start new thread"']
    if next_one == "later":
        writes.later("three", lambda: done.append("three"))
        eventually(lambda: "three" in done, what="the third write")
    assert writes.drain(10)
    assert done[:2] == ["one", "two"]


def _drained_after_fork(
    writes: BackgroundWrites, done: list[str], answers: multiprocessing.SimpleQueue[list[str]]
) -> None:
    writes.later("the child's", lambda: done.append("child"))
    answers.put(done if writes.drain(10) else ["not all done"])


def test_a_forked_process_does_only_its_own_writes() -> None:
    begun, go = threading.Event(), threading.Event()
    writes, done = BackgroundWrites(), list[str]()

    def hold() -> None:
        begun.set()
        go.wait(30)

    writes.later("the parent's", hold)
    writes.later("the parent's second", lambda: done.append("parent"))
    assert begun.wait(10)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_drained_after_fork, args=(writes, done, answers))
    child.start()
    child.join(20)
    try:
        assert child.exitcode == 0
        assert answers.get() == ["child"]
    finally:
        go.set()
    assert writes.drain(10)
    assert done == ["parent"]
