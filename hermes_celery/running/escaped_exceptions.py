"""Decide how a run ends whose work raises a BaseException that is not an Exception.

Examples are `asyncio.CancelledError`, `gevent.Timeout`, or a BaseException of the project's own.
Celery lets them reach its pool, and each pool handles them differently. Here the run fails with the
exception. Three kinds are left to Celery:

- what ends the process: `sys.exit()` in a pool process, the worker's own shutdown;
- Celery's hard time limit under gevent, which is a `gevent.Timeout` in the task;
- the end of a greenlet whose message Celery takes back, to have it delivered again.

If the end of a greenlet was requested, its run is cancelled.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hermes_celery.core.run import RunState

#: The ids of the messages whose tasks Celery is ending now in this process.
_terminated: set[str] = set()
_taken_back: set[str] = set()


@contextmanager
def terminating(message_id: str, *, comes_again: bool = False) -> Iterator[None]:
    """Mark a message while Celery has its pool end the task.

    Under gevent the task gets an exception for that.
    """
    asked = _taken_back if comes_again else _terminated
    asked.add(message_id)
    try:
        yield
    finally:
        asked.discard(message_id)


def state_after(
    error: BaseException, *, message_id: str, worker: str, is_stopped: bool
) -> RunState | None:
    """Return the state of a run whose work raised `error`; None if Celery is to end the run.

    `worker` ends with the id of its main process. `is_stopped`: the run was asked to stop.
    """
    if _is(error, "celery.exceptions", "WorkerShutdown", "WorkerTerminate"):
        return None
    if isinstance(error, (SystemExit, KeyboardInterrupt)) and is_pool_process(worker):
        return None
    if _is(error, "greenlet", "GreenletExit"):
        if message_id in _taken_back:
            return None
        if is_stopped or message_id in _terminated:
            return RunState.CANCELLED
    return RunState.FAILED


def is_green_timeout(error: BaseException) -> bool:
    """Return whether `error` is a gevent timeout.

    Under gevent, Celery's hard time limit is one as well.
    """
    return _is(error, "gevent", "Timeout")


def is_current_greenlet(number: int) -> bool:
    """Return whether `number` is the id of the calling greenlet."""
    greenlet = sys.modules.get("greenlet")
    return greenlet is not None and id(greenlet.getcurrent()) == number


def is_pool_process(worker: str) -> bool:
    """Return whether this process is in the pool of a worker, whose name ends with its pid."""
    return worker.rpartition(":")[2] == str(os.getppid())


def _is(error: BaseException, module: str, *names: str) -> bool:
    """Return whether `error` is one of a module's exceptions, without importing the module."""
    found = sys.modules.get(module)
    kinds = tuple(kind for name in names if isinstance(kind := getattr(found, name, None), type))
    return isinstance(error, kinds)
