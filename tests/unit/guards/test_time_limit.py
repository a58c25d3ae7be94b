"""`within` returns the result of work with a time limit, and leaves overdue work running."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from hermes_celery.guards.time_limit import Overdue, within
from hermes_celery.session import Session, bound, current_session


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """Yield an event that is set only after the test."""
    event = threading.Event()
    yield event
    event.set()


def test_within_returns_or_raises_the_result_of_the_work() -> None:
    assert within(60, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 // 0)


def test_overdue_work_raises_overdue(never: threading.Event) -> None:
    with pytest.raises(Overdue, match=r"longer than 0.01 s"):
        within(0.01, lambda: never.wait(60))


def test_meanwhile_is_called_repeatedly_during_the_work(never: threading.Event) -> None:
    times: list[int] = []
    threads = SimpleQueue[threading.Thread]()

    def work() -> bool:
        threads.put(threading.current_thread())
        return never.wait(60)

    def meanwhile() -> None:
        times.append(len(times))
        if len(times) == 3:
            never.set()
            # Once it has ended, nothing may be called any more.
            threads.get(timeout=60).join(60)

    assert within(60, work, every_seconds=0.001, meanwhile=meanwhile)
    assert times == [0, 1, 2]


def test_an_exception_of_the_callback_meanwhile_ends_the_wait(never: threading.Event) -> None:
    def lost() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        within(60, lambda: never.wait(60), every_seconds=0.001, meanwhile=lost)


def test_the_work_sees_the_callers_session() -> None:
    with bound(Session(job_id="a" * 12)) as session:
        assert within(60, current_session) == session
