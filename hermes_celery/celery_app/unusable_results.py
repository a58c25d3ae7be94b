"""What a task returned, where Celery cannot keep it or the task has not run at all.

A run ends as Celery ends its task. Celery tries to keep the result only after the task's code, and
the run's end is on record by then: so the same is tried before.
"""

from __future__ import annotations

import inspect
from typing import Any

from celery.backends.base import DisabledBackend
from celery.states import SUCCESS
from kombu.exceptions import EncodeError

#: It keeps pickled values of any kind, whatever `result_serializer` says.
_PICKLES = "celery.backends.database"


def unusable(task: Any, value: Any) -> str:
    """Why a task that returned this has failed; "" where it has not."""
    if inspect.iscoroutine(value):
        return _never_ran(value, made="a coroutine", until="awaited it", use="asyncio.run()")
    if inspect.isasyncgen(value) or (
        inspect.isgenerator(value) and inspect.isgeneratorfunction(inspect.unwrap(task.run))
    ):
        return _never_ran(value, made="a generator", until="went through it", use="a loop")
    return _not_kept(task, value)


def _never_ran(value: Any, *, made: str, until: str, use: str) -> str:
    name = getattr(value, "__qualname__", type(value).__name__)
    return (
        f"calling {name} made {made}, and nobody {until}: its body never ran; "
        f"use {use} within a plain task"
    )


def _not_kept(task: Any, value: Any) -> str:
    """What the result backend says to it, if the result is to be kept there."""
    backend = task.backend
    if isinstance(backend, DisabledBackend) or task.ignore_result or task.request.ignore_result:
        return ""
    if any(cls.__module__ == _PICKLES for cls in type(backend).__mro__):
        return ""
    try:
        backend.encode(backend.encode_result(value, SUCCESS))
    except EncodeError as error:
        return f"EncodeError: the result backend cannot keep what it returned: {error}"
    except Exception:  # noqa: BLE001 - Celery itself meets it next, and says what it is
        return ""
    return ""
