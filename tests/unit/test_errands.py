"""Errands: in order, again while Redis is away, and one that fails holds up no other."""

from __future__ import annotations

import logging
import multiprocessing
import threading

import pytest

from hermes_celery.errors import RecordBroken, StoreUnavailable
from hermes_celery.running.errands import Errands
from tests.support import eventually


def test_errands_are_done_in_order_and_each_by_itself() -> None:
    done: list[str] = []
    errands = Errands()

    def broken() -> None:
        raise RecordBroken("key", "is a list")

    def unforeseen() -> None:
        raise RuntimeError("unforeseen")

    for errand in (lambda: done.append("first"), broken, unforeseen, lambda: done.append("last")):
        errands.later("one", errand)
    assert errands.drain(10)
    assert done == ["first", "last"]


def test_an_errand_is_done_again_until_redis_answers() -> None:
    answers = iter([StoreUnavailable("away"), StoreUnavailable("away"), None])
    pauses: list[float] = []

    def ask() -> None:
        answer = next(answers)
        if answer is not None:
            raise answer

    errands = Errands(pause=pauses.append)
    errands.later("one", ask)
    assert errands.drain(10)
    assert pauses == [1.0, 1.0]
    assert next(answers, "all") == "all"


def test_what_there_is_no_room_for_is_counted_and_not_called_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, go, done = threading.Event(), threading.Event(), list[int]()
    errands = Errands(most=3)

    def hold() -> None:
        begun.set()
        go.wait(10)

    errands.later("the one that holds up", hold)
    assert begun.wait(10)
    with caplog.at_level(logging.ERROR, logger="hermes_celery"):
        for number in range(5):
            errands.later(f"number {number}", lambda number=number: done.append(number))  # type: ignore[misc]
        go.set()
        assert not errands.drain(10)
    assert done == [2, 3, 4]
    assert [line for line in caplog.messages if line.startswith("errand.dropped")]
    assert [line for line in caplog.messages if line == "errands.undone count=2"]
    assert errands.drain(10)


def test_an_errand_that_redis_never_took_is_not_called_done() -> None:
    def away() -> None:
        raise StoreUnavailable("away")

    errands = Errands(pause=lambda seconds: None, patience_seconds=0.0)
    errands.later("one", away)
    assert not errands.drain(10)
    assert errands.drain(10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_end_of_its_thread_is_not_the_end_of_all_errands() -> None:
    errands, done, threads = Errands(), list[str](), list[threading.Thread]()

    def end_the_thread() -> None:
        threads.append(threading.current_thread())
        raise SystemExit

    errands.later("one", end_the_thread)
    eventually(lambda: threads and not threads[0].is_alive(), what="the end of the thread")
    errands.later("another", lambda: done.append("another"))
    assert errands.drain(10)
    assert done == ["another"]


def _drained_after_fork(
    errands: Errands, done: list[str], answers: multiprocessing.SimpleQueue[list[str]]
) -> None:
    errands.later("the child's", lambda: done.append("child"))
    answers.put(done if errands.drain(10) else ["not all done"])


def test_a_forked_process_does_its_own_errands_and_none_of_its_parents() -> None:
    begun, go = threading.Event(), threading.Event()
    errands, done = Errands(), list[str]()

    def hold() -> None:
        begun.set()
        go.wait(30)

    errands.later("the parent's", hold)
    errands.later("the parent's second", lambda: done.append("parent"))
    assert begun.wait(10)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_drained_after_fork, args=(errands, done, answers))
    child.start()
    child.join(20)
    try:
        assert child.exitcode == 0
        assert answers.get() == ["child"]
    finally:
        go.set()
    assert errands.drain(10)
    assert done == ["parent"]
