"""Tells whether publishing a task runs code of the project or of a library that it uses.

If it does, Celery builds each message for its very occurrence. If not, all messages are alike, and
a template is filled in. These can differ from message to message and therefore count: receivers of
the publish signals, a project's own `apply_async` or `shadow_name`, `Celery.send_task` or kombu's
`Producer.publish` patched by a monitoring library, callable routers, and an expiry that counts from
the message.

A function is identified by the file of its code, so that a wrapper is noticed even if it has the
original's name. The answer is kept while everything that may change at run time is the same; that
check costs less than a microsecond.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import celery
import kombu
from celery import signals
from celery._state import get_current_worker_task
from celery.app.routes import MapRoute
from kombu.messaging import Producer

from hermes_celery.celery_app.message_channel import NOTE_UID
from hermes_celery.core.work import TaskCall

if TYPE_CHECKING:
    from celery import Celery

INHERIT_UID = "hermes-celery-inherit"
SENT_UID = "hermes-celery-sent"
_OURS = frozenset((NOTE_UID, INHERIT_UID, SENT_UID))
_LIBRARIES = tuple(str(Path(module.__file__ or "").parent) for module in (celery, kombu))
_BEFORE, _AFTER, _SENT = signals.before_task_publish, signals.after_task_publish, signals.task_sent
#: Options that set an instant, counted from the message.
_INSTANTS = frozenset(("expires", "countdown", "eta"))
_AMQP = ("as_task_v2", "_create_task_sender", "Producer")
_PROTOCOL = 2


class UserCode:
    """Tells which tasks of an app run the project's code when they are published."""

    def __init__(self, app: Celery, *, in_tasks: bool) -> None:
        """`in_tasks` says whether a task may be running here; it is the parent of what it sends."""
        self._app = app
        self._in_tasks = in_tasks
        self._tasks: Any = None
        #: By task: the state that the answer depends on, and the answer.
        self._known: dict[str, tuple[tuple[Any, ...], bool]] = {}

    def runs_for(self, call: TaskCall) -> bool:
        """Return whether each message of this call must be built by itself."""
        if call.options and not _INSTANTS.isdisjoint(call.options):
            return True
        tasks = self._tasks
        if tasks is None:
            # This finalizes the app, once.
            tasks = self._tasks = self._app.tasks
        task = tasks.get(call.name)
        rests_on = self._rests_on(task)
        known = self._known.get(call.name)
        if known is None or known[0] != rests_on:
            known = self._known[call.name] = (_kept(rests_on), self._runs_for(call.name, task))
        return known[1] or (self._in_tasks and get_current_worker_task() is not None)

    def _rests_on(self, task: Any) -> tuple[Any, ...]:
        app = self._app
        own = app.__dict__
        # Read from the instance's dict: Celery's own property costs more than all the rest.
        amqp = own.get("amqp") or app.amqp
        its = amqp.__dict__
        router = its.get("router") or amqp.router
        parts = None
        if task is not None:
            kind, has = type(task), task.__dict__
            is_own = "apply_async" in has or "shadow_name" in has
            parts = (kind.apply_async, kind.shadow_name, is_own, task.expires)
        return (
            # The lists hold the same entries until a receiver is connected or disconnected.
            _BEFORE.receivers,
            _AFTER.receivers,
            _SENT.receivers,
            Producer.publish,
            type(app).send_task,
            "send_task" in own,
            amqp,
            "as_task_v2" in its or "_create_task_sender" in its or "Producer" in its,
            its.get("send_task_message"),
            router,
            router.routes,
            parts,
        )

    def _runs_for(self, name: str, task: Any) -> bool:
        return (
            any(_has_receiver(signal, name) for signal in (_BEFORE, _AFTER, _SENT))
            or not self._is_plain_app()
            or (task is not None and not _is_plain_task(task))
        )

    def _is_plain_app(self) -> bool:
        app, amqp = self._app, self._app.amqp
        return (
            is_library_code(type(app), "send_task")
            and "send_task" not in vars(app)
            and is_library_code(Producer, "publish")
            and app.conf.task_protocol == _PROTOCOL
            and not app.conf.task_always_eager
            and type(amqp).__module__ == "celery.app.amqp"
            and not any(name in vars(amqp) for name in _AMQP)
            and all(is_library_code(type(amqp), name) for name in _AMQP[:-1])
            and _is_from_library(vars(amqp).get("send_task_message"))
            and type(amqp.router).__module__ == "celery.app.routes"
            and all(type(route) is MapRoute for route in amqp.router.routes)
        )


def _kept(rests_on: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a copy of the state with copied lists: Celery changes them in place."""
    return tuple([*one] if isinstance(one, list) else one for one in rests_on)


def is_library_code(owner: type, name: str) -> bool:
    """Return whether a method is a plain function of Celery or kombu, not a wrapper of it."""
    found = inspect.getattr_static(owner, name, None)
    # Not `isinstance`: a proxy claims the type of the object that it wraps.
    return type(found) is FunctionType and _is_from_library(found)


def _is_from_library(function: Any) -> bool:
    if function is None:
        return True
    code = getattr(function, "__code__", None)
    return type(function) is FunctionType and str(getattr(code, "co_filename", "")).startswith(
        _LIBRARIES
    )


def _is_plain_task(task: Any) -> bool:
    kind, own = type(task), vars(task)
    return task.expires is None and all(
        is_library_code(kind, name) and name not in own for name in ("apply_async", "shadow_name")
    )


def _has_receiver(signal: Any, task_name: str) -> bool:
    """Return whether a receiver other than ours is called for that task.

    A receiver may listen to one sender only.
    """
    anybody = id(None)
    return any(
        key[0] not in _OURS and key[1] in (anybody, task_name) for key, _ in signal.receivers
    )
