"""Finds return values that Celery cannot keep, or that mean that the task never ran.

A run ends as Celery ends its task. Celery stores the result only after the task's code, when the
run's end is already on record. So the encoding is tried here, before that.
"""

from __future__ import annotations

import inspect
from typing import Any

from celery.backends.base import DisabledBackend
from celery.states import SUCCESS
from kombu.exceptions import EncodeError

#: This backend pickles every value, whatever `result_serializer` says.
_PICKLES = "celery.backends.database"


def unusable(task: Any, value: Any) -> str:
    """Return why a task with this return value has failed; "" if it has not."""
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
    """Return the result backend's error for a value that it is to keep, or ""."""
    backend = task.backend
    if isinstance(backend, DisabledBackend) or task.ignore_result or task.request.ignore_result:
        return ""
    if any(cls.__module__ == _PICKLES for cls in type(backend).__mro__):
        return ""
    try:
        backend.encode(backend.encode_result(value, SUCCESS))
    except EncodeError as error:
        return f"EncodeError: the result backend cannot keep what it returned: {error}"
    except Exception:  # noqa: BLE001 - Celery itself gets the same error next and reports it
        return ""
    return ""
