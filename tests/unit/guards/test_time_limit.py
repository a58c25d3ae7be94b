"""Work that has an end in time: what comes of it, and what is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from hermes_celery.guards.time_limit import Overdue, within
from hermes_celery.session import Session, bound, current_session


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """What is waited for in vain, until the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_what_work_returns_or_raises_is_what_comes_of_it() -> None:
    assert within(60, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 // 0)


def test_work_that_is_late_is_left_behind(never: threading.Event) -> None:
    with pytest.raises(Overdue, match=r"longer than 0.01 s"):
        within(0.01, lambda: never.wait(60))


def test_meanwhile_something_is_done_again_and_again(never: threading.Event) -> None:
    times: list[int] = []

    def meanwhile() -> None:
        times.append(len(times))
        if len(times) == 3:
            never.set()

    assert within(60, lambda: never.wait(60), every_seconds=0.001, meanwhile=meanwhile)
    assert times == [0, 1, 2]


def test_what_is_raised_meanwhile_ends_the_waiting(never: threading.Event) -> None:
    def lost() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        within(60, lambda: never.wait(60), every_seconds=0.001, meanwhile=lost)


def test_work_sees_the_session_that_it_was_begun_in() -> None:
    with bound(Session(job_id="a" * 12)) as session:
        assert within(60, current_session) == session
