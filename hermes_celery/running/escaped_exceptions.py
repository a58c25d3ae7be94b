"""What becomes of a run whose work raises what is no Exception.

`asyncio.CancelledError`, `gevent.Timeout`, a BaseException of the project's own: Celery lets them
go up to its pool, and each pool does something else with them. The run has failed with it. Three
kinds are left to Celery:

- what ends the process: `sys.exit()` in a pool process, the worker's own shutdown;
- Celery's hard time limit under gevent, which is a `gevent.Timeout` in the task;
- the end of a greenlet whose message Celery takes back, to have it delivered again.

The end of a greenlet that somebody asked for cancels its run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hermes_celery.core.run import RunState

#: What Celery is asked to end just now in this process: the ids of its messages.
_terminated: set[str] = set()
_taken_back: set[str] = set()


@contextmanager
def terminating(message_id: str, *, comes_again: bool = False) -> Iterator[None]:
    """While Celery has its pool end a task; under gevent that is an exception in the task."""
    asked = _taken_back if comes_again else _terminated
    asked.add(message_id)
    try:
        yield
    finally:
        asked.discard(message_id)


def state_after(
    error: BaseException, *, message_id: str, worker: str, is_stopped: bool
) -> RunState | None:
    """How a run ends whose work raised that; None where Celery is to end it.

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
    """Whether that is a timeout of gevent, which is also how Celery's hard limit comes there."""
    return _is(error, "gevent", "Timeout")


def is_current_greenlet(number: int) -> bool:
    """Whether that is the id of the greenlet that calls."""
    greenlet = sys.modules.get("greenlet")
    return greenlet is not None and id(greenlet.getcurrent()) == number


def is_pool_process(worker: str) -> bool:
    """Whether this process is one of the pool of a worker, whose name ends with its process id."""
    return worker.rpartition(":")[2] == str(os.getppid())


def _is(error: BaseException, module: str, *names: str) -> bool:
    """Whether it is one of a module's exceptions; a module that nobody imported raised nothing."""
    found = sys.modules.get(module)
    kinds = tuple(kind for name in names if isinstance(kind := getattr(found, name, None), type))
    return isinstance(error, kinds)
