"""Calls Celery's own `apply_async` with a channel that belongs to this one call.

Everything that a project does when it publishes a message happens here as well: signals, overrides
of `apply_async`, routers, patches of a monitoring library. The result is the message on the wire
and its queue. Nothing is kept, and nothing is shared between threads: two threads that publish at
once have a channel each.

Messages that the project's own code publishes elsewhere meanwhile are noted by their ids. This
tells a message that took another way from one that was never published (because of a lock like
celery-once's).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import msgspec
from celery import signals
from kombu.connection import Connection
from kombu.transport import virtual

from hermes_celery.core.work import TaskCall
from hermes_celery.errors import JobError
from hermes_celery.session import HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

#: Publishes one message with `apply_async`'s options, and raises the errors of `apply_async`.
Send = Callable[[Mapping[str, Any]], Any]
NOTE_UID = "hermes-celery-note"
#: The exchange of Celery's events, which carries no messages of tasks.
_EVENTS = "celeryev"


class PublishedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one call of `apply_async`."""

    #: The queue and kombu's message; None if it went elsewhere, or nowhere.
    message: tuple[str, dict[str, Any]] | None = None
    #: The Celery id of a message that was published elsewhere instead.
    elsewhere: str = ""
    #: Whether that message has our header, so that it still carries the run.
    carries_run: bool = False


class _SentMessage(msgspec.Struct, frozen=True):
    message_id: str
    carries_run: bool


_noted: ContextVar[list[_SentMessage] | None] = ContextVar("hermes_celery_published", default=None)


def listen() -> None:
    """Watch what is published; the signal is global, so once per process is enough."""
    signals.after_task_publish.connect(_note, dispatch_uid=NOTE_UID, weak=False)


def publish(
    app: Celery,
    call: TaskCall,
    *,
    message_id: str,
    header: object,
    through: Callable[[Send, dict[str, Any]], Any] | None = None,
) -> PublishedMessage:
    """Publish a call under a Celery id, with our `header`, into a channel of its own.

    `through` gets the function that publishes and its options, and calls it with options that it
    may have changed. Raises the errors of `apply_async`, and JobError when the message goes to no
    queue or to several.
    """
    # Celery's own beat marks its messages in the same way.
    ours = {"celery_beat_task": True, HEADER: header}
    task = app.tasks.get(call.name)
    apply = app.send_task if task is None else task.apply_async
    with _listening() as noted, Connection(transport=_CatchingTransport) as connection:
        connection.transport.bound = app.amqp.queues.values

        def send(options: Mapping[str, Any]) -> Any:
            headers = {**(options.get("headers") or {}), **ours}
            return apply(
                *((call.name,) if task is None else ()),
                args=tuple(call.args),
                kwargs=call.kwargs,
                **{
                    **options,
                    "headers": headers,
                    "task_id": message_id,
                    "connection": connection,
                },
            )

        options = dict(call.options)
        result = send(options) if through is None else through(send, options)
        transport = connection.transport
        return _outcome(call, transport, result=result, noted=noted)


def _outcome(
    call: TaskCall, transport: Any, *, result: Any, noted: list[_SentMessage]
) -> PublishedMessage:
    caught = transport.caught
    if len(caught) == 1:
        return PublishedMessage(message=caught[0])
    if transport.published:
        places = ", ".join([*(queue for queue, _ in caught), *transport.fanned]) or "no queue"
        raise JobError(
            f"a message of the task {call.name} goes to {places}, and a run needs exactly one "
            "queue; route it to one queue with a direct exchange"
        )
    result_id = str(getattr(result, "id", "") or "")
    for note in noted:
        if note.message_id == result_id:
            return PublishedMessage(elsewhere=result_id, carries_run=note.carries_run)
    return PublishedMessage()


class _CatchingChannel(virtual.Channel):
    """Keeps published messages in its connection's transport instead of queueing them."""

    supports_fanout = True
    do_restore = False

    def basic_publish(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> Any:
        """Record that something was published, wherever it goes."""
        if exchange == _EVENTS:
            return None
        self.connection.published = True
        return super().basic_publish(message, exchange, routing_key, **kwargs)  # type: ignore[no-untyped-call]

    def _lookup(self, exchange: str, routing_key: str, default: Any = None) -> list[str]:
        """Return the queues that are bound to an exchange, including queues that the app defines.

        A message with an exchange and no queue declares no queue; on a broker the queues already
        exist.
        """
        found = super()._lookup(exchange, routing_key, default)  # type: ignore[no-untyped-call]
        if not found and self.connection.bound is not None:
            bound, self.connection.bound = self.connection.bound(), None
            for queue in [one for one in bound if one.exchange and one.exchange.name == exchange]:
                queue(self).declare()
            found = super()._lookup(exchange, routing_key, default)  # type: ignore[no-untyped-call]
        return list(found)

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self.connection.caught.append((queue, message))

    def _put_fanout(self, exchange: str, message: Any, routing_key: str = "", **_: Any) -> None:
        self.connection.fanned.append(f"the fan-out exchange {exchange}")

    def _new_queue(self, queue: str, **_: Any) -> None:
        """Do nothing: there is no queue to create."""

    def _queue_bind(self, *_: Any) -> None:
        """Do nothing: the transport keeps the table of bindings."""

    def _has_queue(self, queue: str, **_: Any) -> bool:
        return True

    def _size(self, queue: str) -> int:
        return 0


class _CatchingTransport(virtual.Transport):
    """A transport without a server; it alone knows its exchanges and queues."""

    Channel = _CatchingChannel
    driver_type = driver_name = "hermes-celery"
    implements = virtual.Transport.implements.extend(
        exchange_type=frozenset(["direct", "topic", "fanout", "headers"])
    )

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)  # type: ignore[no-untyped-call]
        self.caught: list[tuple[str, dict[str, Any]]] = []
        self.fanned: list[str] = []
        self.published = False
        #: Returns the queues of the app; None once they were declared.
        self.bound: Callable[[], Any] | None = None

    def driver_version(self) -> str:
        """Return "N/A": there is no driver."""
        return "N/A"


def catching_connection() -> Connection:
    """Return a connection that keeps what is published on it in `transport.caught`."""
    return Connection(transport=_CatchingTransport)


@contextmanager
def _listening() -> Iterator[list[_SentMessage]]:
    noted: list[_SentMessage] = []
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


def _note(headers: Any = None, body: Any = None, **_: Any) -> None:
    """Record a published message for the listener of this context; for `after_task_publish`."""
    noted = _noted.get()
    if noted is None:
        return
    named = headers if isinstance(headers, Mapping) else {}
    message_id = named.get("id") or (body.get("id") if isinstance(body, Mapping) else None)
    header = named.get(HEADER)
    carries = isinstance(header, Mapping) and header.get("message") == message_id
    noted.append(_SentMessage(str(message_id or ""), carries))
