"""Limit the time of work that calls other people's code: it runs in a thread and is abandoned if
late.

A thread cannot be stopped from outside. An abandoned thread holds no slot and no claim, and its
result is dropped. The caller gives the work a way to notice that it is too late.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Overdue(Exception):
    """The work took too long."""


def within(
    seconds: float,
    work: Callable[[], _T],
    *,
    every_seconds: float = float("inf"),
    meanwhile: Callable[[], None] = lambda: None,
) -> _T:
    """Do `work`, and return or raise what it does. Raises Overdue if it takes too long.

    Meanwhile, `meanwhile` is called every `every_seconds` from this thread; an error of it also
    ends the waiting. This works under every pool: under gevent the thread is a greenlet.
    """
    done = threading.Event()
    call = _Call(work, done)
    deadline = time.monotonic() + seconds
    context = contextvars.copy_context()
    threading.Thread(
        target=context.run, args=(call.make,), name="hermes-bounded", daemon=True
    ).start()
    while not done.wait(max(min(every_seconds, deadline - time.monotonic()), 0)):
        if time.monotonic() >= deadline:
            raise Overdue(f"it took longer than {seconds:g} s")
        meanwhile()
    return call.result()


class _Call(Generic[_T]):
    """One call and its result."""

    def __init__(self, work: Callable[[], _T], done: threading.Event) -> None:
        self._work = work
        self._done = done
        self._values: list[_T] = []
        self._error: BaseException | None = None

    def make(self) -> None:
        """Call the work, and keep its error instead of raising it in this thread."""
        try:
            self._values.append(self._work())
        except BaseException as error:  # noqa: BLE001 - `result` raises it in the waiting thread
            self._error = error
        finally:
            self._done.set()

    def result(self) -> _T:
        """Return the result, or raise the error."""
        if self._error is not None:
            raise self._error
        return self._values[0]
