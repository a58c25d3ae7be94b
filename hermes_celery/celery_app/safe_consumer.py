"""The consumer of a worker that no message can end.

kombu and Celery take a message apart in the worker's main process and expect it to be one of
theirs; an error there ends the process with all its runs. So an app of ours consumes through a
connection of its own class, whose channel

- looks at each message before Celery does (`dead_letters.fault_of`);
- asks the Sentinels, where there are any, each time it connects;
- never waits for a broadcast;
- takes whatever kombu or Celery raise over a message, from its first byte until the pool has it,
  for that message's fault: it becomes a dead letter, and the next one is taken.

An error of the server (READONLY, UNBLOCKED, LOADING, MASTERDOWN, WRONGTYPE ...) is a lost
connection: by `broker_channel_error_retry` Celery connects again, and goes on when the server is
itself again.

What Celery refuses by itself (a task that is not registered, content that is not accepted) is
still told as Celery tells it, and is a dead letter too. Nothing of kombu or Celery is patched:
another app in the process keeps its own classes. Written against kombu 5.7 and Celery 5.7, whose
`_create_client`, `_brpop_read`, `_deliver`, `_deliver_fanout_message` and `_receive_one` it uses.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache, cached_property, partial
from queue import Empty
from typing import TYPE_CHECKING, Any

from celery import Celery, bootsteps
from celery.exceptions import InvalidTaskError, WorkerTerminate
from celery.platforms import EX_FAILURE
from celery.worker import state
from kombu.connection import ConnectionPool, PooledConnection
from kombu.exceptions import ContentDisallowed
from kombu.transport import redis as redis_transport
from kombu.utils.json import dumps, loads

from hermes_celery.celery_app.continued_runs import run_behind
from hermes_celery.core.dead_letters import (
    NOT_REGISTERED,
    fault_of,
    fault_of_call,
    letter,
    one_line,
)
from hermes_celery.errors import StoreError, error_text
from hermes_celery.events import RateLimitedLog, event
from hermes_celery.store.connecting import MasterConnection, MasterTlsConnection

if TYPE_CHECKING:
    # The classes below stand in front of a class that is known at run time only.
    from typing import Any as _Above

    from hermes_celery.clock import Clock
    from hermes_celery.store import Letters
else:
    _Above = object

_log = logging.getLogger(__name__)
_ATTRIBUTE = "_hermes_celery_dead_letters"
_BEFORE_TRACING = "_hermes_celery_before_tracing"
_BROADCAST = "(broadcast)"
#: What says that there is no message, or that the server is the trouble. kombu counts every
#: KeyError as a lost connection; here it is a part that a message lacks.
_NOT_THE_MESSAGE = (
    Empty,
    *(
        error
        for error in (
            *redis_transport.Transport.connection_errors,
            *redis_transport.Transport.channel_errors,
        )
        if error is not KeyError
    ),
)
#: Between two tries on a server that answers and refuses.
_REFUSED_PAUSE_SECONDS = 1.0
#: What Celery calls when it refuses a message, and where the error is among the arguments.
_REFUSALS = {"on_unknown_message": None, "on_unknown_task": 2, "on_invalid_task": 2,
             "on_decode_error": 1}  # fmt: skip


class _Unreadable(Exception):
    """A message that must not go on; the text says why."""


class _Refused(_Unreadable):
    """One that Celery refuses for good: no worker like this one would take another copy."""


class DeadLetters:
    """Where a worker's consumer puts what it cannot read. Never raises: the worker goes on."""

    def __init__(
        self,
        letters: Letters,
        *,
        clock: Clock,
        worker: str,
        handed_on_failed: Callable[[str, str], None],
    ) -> None:
        """`handed_on_failed` is told of a run that waits for what a message was to publish."""
        self._letters = letters
        self._handed_on_failed = handed_on_failed
        self._clock = clock
        self._worker = worker
        self._complaint = RateLimitedLog()
        #: What Celery has made of the message that is being delivered, once it counts as reserved.
        self.reserved: Any = None

    def let_go(self) -> None:
        """Give back the slot that Celery reserved for a message that goes no further."""
        request, self.reserved = self.reserved, None
        if request is not None:
            state.task_ready(request)

    def put(self, raw: bytes, *, queue: str, why: str, is_final: bool = False) -> None:
        """Keep a message; the log hears of the first, and then of one a minute.

        Its run ends at once where it `is_final`: no copy of it would be taken. Nobody sends another
        copy of a task that a run was handed on to, so that run ends by the first.
        """
        self._keep(raw, queue=queue, why=why, is_final=is_final)
        # Telling reads the message, which is what may be wrong with it.
        self._tell_who_waits(raw, why)

    def _keep(self, raw: bytes, *, queue: str, why: str, is_final: bool) -> None:
        try:
            dead = letter(
                raw, queue=queue, why=why, worker=self._worker, at_ms=self._clock.now_ms()
            )
            ended = self._letters.bury(dead, is_final=is_final)
        except StoreError as error:
            event(_log, "letter.not_kept", level=logging.ERROR, queue=queue, why=why, error=error)
            return
        if ended:
            event(_log, "run.refused", level=logging.ERROR, run=ended, why=dead.why)
        if self._complaint.may_say(time.monotonic()):
            event(
                _log, "letter.kept", level=logging.WARNING,
                queue=dead.queue, why=dead.why, size=dead.size, run=dead.run_id or None,
                more="`hermes-celery letters` shows all",
            )  # fmt: skip

    def _tell_who_waits(self, raw: bytes, why: str) -> None:
        try:
            message = loads(raw)
        except Exception:  # noqa: BLE001 - kombu's types raise their own; projects add theirs
            return
        run_id = run_behind(message)
        if run_id is not None:
            task = one_line(str(message["headers"].get("task")))
            self._handed_on_failed(
                run_id,
                f"its task handed it on, and no worker can take the task {task}: {one_line(why)}; "
                "see `hermes-celery letters`",
            )


def install(app: Celery, dead_letters: DeadLetters) -> None:
    """Let the workers of this app, and of no other, consume safely; before the worker is made."""
    if hasattr(app, _ATTRIBUTE):
        return
    setattr(app, _ATTRIBUTE, dead_letters)
    app.amqp.Connection = type(
        "SafeConnection", (_SafeConnection, app.amqp.Connection), {"dead_letters": dead_letters}
    )
    app.steps["consumer"].add(_RefusalLetters)
    app.conf.broker_channel_error_retry = True


def before_tracing(app: Celery, act: Callable[[], None]) -> None:
    """Act before each time that a consumer of this app makes what traces its tasks."""
    setattr(app, _BEFORE_TRACING, act)


class _SafeConnection(_Above):  # type: ignore[misc]  # kombu carries no types
    """In front of the app's own class of connection."""

    dead_letters: DeadLetters

    def Pool(self, limit: int | None = None, **options: Any) -> Any:
        """What Celery publishes through."""
        if self.transport_cls != "sentinel":
            return super().Pool(limit, **options)
        return _SafePool(self, limit, **options)  # type: ignore[no-untyped-call]

    def get_transport_cls(self) -> Any:
        """The transport that the URL means, with a safe channel if it is Redis."""
        transport: Any = super().get_transport_cls()
        is_redis = issubclass(transport, redis_transport.Transport)
        return _safe_transport(transport) if is_redis else transport


class _SafePool(ConnectionPool):
    """A pool for Sentinels, whose connections are of a class of ours; see MasterConnection."""

    def new(self) -> Any:
        """A connection that is not made yet."""
        given = dict(self.connection._info(resolve=False))
        return _PooledConnection(self, **given)  # type: ignore[no-untyped-call]


class _PooledConnection(PooledConnection):
    def get_transport_cls(self) -> Any:
        return _asking_transport(super().get_transport_cls())  # type: ignore[no-untyped-call]


@cache
def _asking_transport(transport: Any) -> Any:
    channel = type("AskingChannel", (transport.Channel,), _asking(transport))
    return type("AskingTransport", (transport,), {"Channel": channel})


def _asking(transport: Any) -> dict[str, Any]:
    """The classes of connections for a channel, where there are Sentinels to ask."""
    if not issubclass(transport.Channel, redis_transport.SentinelChannel):
        return {}
    return {"connection_class": MasterConnection, "connection_class_ssl": MasterTlsConnection}


@cache
def _safe_transport(transport: Any) -> Any:
    """A transport class like this one (plain or Sentinel) with a safe channel."""
    channel = type("SafeChannel", (_SafeChannel, transport.Channel), _asking(transport))
    return type("SafeTransport", (_SafeTransport, transport), {"Channel": channel})


class _SafeTransport(_Above):  # type: ignore[misc]  # kombu carries no types
    """In front of a Redis transport."""

    def _deliver(self, message: Any, queue: str) -> None:
        fault = fault_of(message)
        if fault is not None:
            raise _Unreadable(fault)
        super()._deliver(message, queue)


class _SafeChannel(_Above):  # type: ignore[misc]  # kombu carries no types
    """In front of a channel of the Redis transport."""

    #: Queue and message that were taken and are not with Celery yet.
    _taken: tuple[Any, Any] | None = None
    #: What the subscription brought last.
    _heard: Any = None

    def close(self) -> None:
        """Close it, and never ask where the server is when kombu has let go of that.

        After a lost connection Celery closes twice: the first time may fail, and the second time
        kombu would give back what was taken through a connection without an address, which ends
        the worker. What is not given back comes back by kombu's visibility timeout; runs are pushed
        again before.
        """
        if self.connection is not None and self.connection.client is None:
            self.do_restore = False
        super().close()

    def _create_client(self, asynchronous: bool = False) -> Any:
        client: Any = super()._create_client(asynchronous)
        if asynchronous:
            client.parse_response = partial(self._answer, client.parse_response)
        return client

    @cached_property
    def subclient(self) -> Any:
        """The subscription to broadcasts, read without waiting.

        kombu reads when there is something to read. Where that is the end of the connection,
        redis-py connects again and then waits for the next broadcast, which may be for ever: a
        worker whose subscription alone was closed (`CLIENT KILL TYPE pubsub`, a limit of the
        server's buffers, a failover) took no message any more.
        """
        subscription: Any = self._create_client(asynchronous=True).pubsub()
        subscription.parse_response = partial(
            self._hear, partial(subscription.parse_response, block=False, timeout=0)
        )
        return subscription

    def _hear(self, parse: Callable[[], Any]) -> Any:
        self._heard = None
        self._heard = parse()
        return self._heard

    def _answer(self, parse: Callable[..., Any], connection: Any, command: str, **kw: Any) -> Any:
        """What the server answers; what BRPOP brings is kept as it came."""
        answer = parse(connection, command, **kw)
        if command == "BRPOP":
            self._taken = answer
        return answer

    def _brpop_read(self, **options: Any) -> bool:
        dead_letters = self.connection.client.dead_letters
        self._taken = dead_letters.reserved = None
        try:
            return bool(super()._brpop_read(**options))
        except _NOT_THE_MESSAGE:
            raise
        except Exception as error:  # one bad message must not end the worker
            if self._taken is None:
                raise
            queue, raw = self._taken
            self._bury(raw, queue=_text(queue), error=error)
            dead_letters.let_go()
            raise Empty from None
        finally:
            self._taken = dead_letters.reserved = None

    def _deliver_fanout_message(self, message: Any, exchange: str) -> Any:
        if exchange not in self._fanout_to_queue:
            return super()._deliver_fanout_message(message, exchange)
        try:
            return super()._deliver_fanout_message(message, exchange)
        except _NOT_THE_MESSAGE:
            raise
        except Exception as error:  # noqa: BLE001 - nor may a bad broadcast
            self._bury(dumps(message).encode(), queue=f"{_BROADCAST} {exchange}", error=error)
            return False

    def _receive_one(self, client: Any) -> Any:
        try:
            return super()._receive_one(client)
        except _NOT_THE_MESSAGE:
            raise
        except Exception as error:  # one that cannot even be decoded must not end the worker
            if self._heard is None:
                raise
            # kombu itself lets one go by that is no JSON.
            self._bury(b"", queue=_BROADCAST, error=error)
            return False

    def _bury(self, raw: bytes, *, queue: str, error: Exception) -> None:
        why = str(error) if isinstance(error, _Unreadable) else error_text(error)
        self.connection.client.dead_letters.put(
            raw, queue=queue, why=why, is_final=isinstance(error, _Refused)
        )
        tag = _delivery_tag(raw)
        if tag is not None:
            # kombu may have noted it as delivered, and would restore it to its queue.
            self.basic_ack(tag)


def _delivery_tag(raw: bytes) -> str | None:
    """The tag of a message; None if it is so broken that kombu cannot have got that far."""
    try:
        tag = loads(raw)["properties"]["delivery_tag"]
    except Exception:  # noqa: BLE001 - kombu's types raise their own; projects add theirs
        return None
    return tag if isinstance(tag, str) else None


def _text(name: bytes | str) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name


class _RefusalLetters(bootsteps.Step):  # type: ignore[misc]  # Celery carries no types
    """Makes a dead letter of what Celery itself refuses, after Celery has told of it."""

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        for name, position in _REFUSALS.items():
            setattr(consumer, name, _reported(getattr(consumer, name), position))
        consumer.on_task_message.add(_checked(getattr(consumer.app, _ATTRIBUTE)))
        for name in ("on_connection_error_before_connected", "on_connection_error_after_connected"):
            setattr(consumer, name, _unhurried(consumer, getattr(consumer, name)))
        consumer.start = _honest(consumer, consumer.start)
        act = getattr(consumer.app, _BEFORE_TRACING, None)
        if act is not None:
            consumer.update_strategies = _after(act, consumer.update_strategies)


def _after(act: Callable[[], None], update: Callable[[], None]) -> Callable[[], None]:
    def act_and_update() -> None:
        act()
        update()

    return act_and_update


def _unhurried(consumer: Any, note: Callable[..., None]) -> Callable[[Exception], None]:
    """Celery waits for a server that is away; one that answers and refuses it would ask at once."""

    def note_and_wait(error: Exception) -> None:
        note(error)
        if isinstance(error, consumer.channel_errors):
            time.sleep(_REFUSED_PAUSE_SECONDS)

    return note_and_wait


def _honest(consumer: Any, start: Callable[[], None]) -> Callable[[], None]:
    """Celery ends a worker that runs out of descriptors with exit code 0, as if all were well."""

    def start_or_fail() -> None:
        try:
            start()
        except WorkerTerminate:
            if not state.should_terminate:
                consumer.controller.exitcode = EX_FAILURE
                why = "it may open no more files; raise its limit (ulimit -n, LimitNOFILE=)"
                event(_log, "worker.ended", level=logging.CRITICAL, why=why)
            raise

    return start_or_fail


def _reported(refuse: Callable[..., Any], position: int | None) -> Callable[..., Any]:
    def refuse_and_report(*args: Any) -> None:
        refuse(*args)
        error = None if position is None else args[position]
        if isinstance(error, KeyError):
            raise _Refused(f"its task {error} {NOT_REGISTERED}")
        if error is None:
            raise _Unreadable("it names no task")
        kind = _Refused if isinstance(error, (InvalidTaskError, ContentDisallowed)) else _Unreadable
        raise kind(error_text(error))

    return refuse_and_report


def _checked(dead_letters: DeadLetters) -> Callable[[Any], None]:
    def check(request: Any) -> None:
        """Refuse a task with arguments that no pool can be given; Celery has reserved a slot."""
        dead_letters.reserved = request
        embed = request._payload[2]
        fault = fault_of_call(request.body, request.args, request.kwargs, embed)
        if fault is not None:
            raise _Unreadable(fault)

    return check
