"""`celery purge` ends the runs whose messages it deletes, instead of losing their messages.

`celery purge`, `app.control.purge()`, `celery worker --purge` and `celery amqp queue.purge` all use
the channel of one of the app's connections. Our channel takes the messages off the queue, some
hundreds at a time, and reports what each was for; so exactly the deleted messages count as purged.
A queue that is deleted in any other way has lost its messages, and rescue pushes them again.

Nothing of kombu or Celery is patched, and nothing connects before a queue is purged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import cache, partial, wraps
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.utils.imports import instantiate
from kombu.transport import redis as redis_transport
from kombu.utils.json import loads

from hermes_celery.celery_app.continued_runs import run_behind
from hermes_celery.celery_app.ended_requests import delivery_of
from hermes_celery.celery_app.messages import DELIVER_TASK
from hermes_celery.errors import HermesCeleryError
from hermes_celery.events import event
from hermes_celery.running.ended_by_celery import PURGED, RunEnder
from hermes_celery.session import HEADER, run_carried_by

if TYPE_CHECKING:
    # The classes below are put in front of a class that is known only at run time.
    from typing import Any as _Above
else:
    _Above = object

_log = logging.getLogger(__name__)
_AT_ONCE = 500
#: Seconds that a purge waits for all runs to be recorded while Redis does not answer.
_PATIENCE_SECONDS = 300.0
#: The attribute of an app that makes the run ender.
RUN_ENDER = "_hermes_celery_purged"


def watch(app: Celery, make: Callable[[], RunEnder]) -> None:
    """Make the connections of this app report what they purge; `make` is called on a purge."""
    setattr(app, RUN_ENDER, make)
    if "amqp" in vars(app):
        app.amqp.Connection = _watched(app.amqp.Connection, app)
    else:
        # Creating it would read the configuration, which may not be set yet.
        app.amqp_cls = partial(_make_amqp, app.amqp_cls)
    if "control" in vars(app):
        _watch_control(app.control)
    else:
        app.control_cls = partial(_make_control, app.control_cls)


def _make_control(kind: Any, app: Celery) -> Any:
    control = instantiate(kind, app=app)
    _watch_control(control)
    return control


def _watch_control(control: Any) -> None:
    """Make `app.control.purge` use one of the app's connections; kombu's pool has its own class."""
    purge = control.purge

    @wraps(purge)
    def purge_and_tell(connection: Any = None) -> int:
        if isinstance(connection, _PurgingConnection):
            return int(purge(connection=connection))
        with control.app.connection_for_write() as own:
            return int(purge(connection=own))

    control.purge = control.discard_all = purge_and_tell


def _make_amqp(kind: Any, app: Celery) -> Any:
    amqp = instantiate(kind, app=app)
    amqp.Connection = _watched(amqp.Connection, app)
    return amqp


def _watched(connection: Any, app: Celery) -> Any:
    return type("PurgingConnection", (_PurgingConnection, connection), {"purging_app": app})


class _PurgingConnection(_Above):  # type: ignore[misc]  # kombu carries no types
    """A connection class in front of the app's own."""

    purging_app: Celery

    def get_transport_cls(self) -> Any:
        """Return the transport of the URL; for Redis, with a channel that reports purges."""
        transport: Any = super().get_transport_cls()
        is_redis = issubclass(transport, redis_transport.Transport)
        return _purging_transport(transport) if is_redis else transport


@cache
def _purging_transport(transport: Any) -> Any:
    channel = type("PurgingChannel", (_PurgingChannel, transport.Channel), {})
    return type("PurgingTransport", (transport,), {"Channel": channel})


class _PurgingChannel(_Above):  # type: ignore[misc]  # kombu carries no types
    """A channel class in front of the Redis transport's."""

    def _purge(self, queue: str) -> int:
        app = getattr(self.connection.client, "purging_app", None)
        make = getattr(app, RUN_ENDER, None)
        if make is None:
            return int(super()._purge(queue))
        try:
            run_ender: RunEnder = make()
        except HermesCeleryError as error:
            event(_log, "purge.not_noted", level=logging.WARNING, queue=queue, why=error)
            return int(super()._purge(queue))
        with self.conn_or_acquire() as client:
            noted = _RecordedPurge(run_ender)
            purged = sum(
                _purge_list(client, self._q_for_pri(queue, step), noted)
                for step in self.priority_steps
            )
        if not noted.is_all:
            event(_log, "purge.not_noted", level=logging.ERROR, queue=queue)
        return purged


class _RecordedPurge:
    """Waits until purged runs are recorded; stops waiting once the whole patience was used up."""

    def __init__(self, run_ender: RunEnder) -> None:
        self.run_ender = run_ender
        self.is_all = True
        self._patience_seconds = _PATIENCE_SECONDS

    def wait(self) -> None:
        """Wait until one page is recorded, so that there is room for the next one."""
        until = time.monotonic() + self._patience_seconds
        if not self.run_ender.drain(self._patience_seconds):
            self.is_all = False
            if time.monotonic() >= until:
                self._patience_seconds = 0.0


def _purge_list(client: Any, key: str, noted: _RecordedPurge) -> int:
    """Delete the messages that are in a list now, and report each; return their number."""
    left, purged = int(client.llen(key)), 0
    while left > 0:
        raws: Sequence[bytes] = client.rpop(key, min(left, _AT_ONCE)) or ()
        for raw in raws:
            _tell(raw, noted.run_ender)
        noted.wait()
        purged += len(raws)
        left = left - len(raws) if raws else 0
    return purged


def _tell(raw: bytes, run_ender: RunEnder) -> None:
    """Report what a deleted message was for; an unreadable message was for nothing."""
    try:
        message = loads(raw)
        headers = message["headers"]
        task_id, header = headers["id"], headers.get(HEADER)
    except Exception:  # noqa: BLE001 - decoding may raise anything; the rest is deleted too
        return
    if not isinstance(task_id, str):
        return
    if headers.get("task") == DELIVER_TASK:
        delivery_id = delivery_of(task_id)
        if delivery_id is not None:
            run_ender.delivery_ended(delivery_id, "its message was purged")
        return
    run_id = run_carried_by(header, message_id=task_id) or run_behind(message)
    if run_id is not None:
        run_ender.cancelled(run_id, reason=PURGED)
