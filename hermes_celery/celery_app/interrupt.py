"""Interrupts Python code of this process from another thread, by raising an exception in it.

Under prefork it sends Celery's own signal for a soft time limit, which also wakes waiting code.
Under threads and solo it sets an exception for the thread. The exception is raised at the next line
of Python, so code inside one long C call gets it late. Under gevent it wakes the greenlet. The
exception is always Celery's `SoftTimeLimitExceeded`, which tasks know how to handle.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from types import TracebackType
from typing import Any

from billiard.pool import soft_timeout_sighandler
from celery.exceptions import SoftTimeLimitExceeded


class Interruption:
    """While entered, `fire` from any thread raises SoftTimeLimitExceeded in the entering code."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed = False
        self._fired = False
        self._thread = 0
        self._greenlet: Any = None

    def __enter__(self) -> Interruption:
        self._thread = threading.get_ident()
        self._greenlet = _current_greenlet()
        self._armed = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._armed = False
            if self._fired and kind is None and self._greenlet is None:
                _set_exception(self._thread, None)

    def fire(self) -> None:
        """Interrupt the code once, unless it has ended."""
        with self._lock:
            if not self._armed or self._fired:
                return
            self._fired = True
            if self._greenlet is not None:
                sys.modules["gevent"].kill(self._greenlet, SoftTimeLimitExceeded())
            elif self._thread == threading.main_thread().ident and _handles_soft_limit():
                signal.pthread_kill(self._thread, signal.SIGUSR1)
            else:
                _set_exception(self._thread, SoftTimeLimitExceeded)


def _handles_soft_limit() -> bool:
    # In other pools the same signal makes Celery print the stacks of all threads.
    return signal.getsignal(signal.SIGUSR1) is soft_timeout_sighandler


def _set_exception(thread: int, kind: type[BaseException] | None) -> None:
    value = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), value)


def _current_greenlet() -> Any:
    """Return the current greenlet of a gevent worker; None under any other pool."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return None
    return sys.modules["gevent"].getcurrent()
