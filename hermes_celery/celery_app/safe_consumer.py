"""The consumer of a worker that no message can end.

kombu and Celery take a message apart in the worker's main process and expect it to be one of their
own. An error there ends the process with all its runs. So our apps consume through a connection
class of their own, whose channel

- checks each message before Celery does (`dead_letters.fault_of`);
- asks the Sentinels, if there are any, each time it connects;
- never waits for a broadcast;
- treats any error of kombu or Celery, from the message's first byte until the pool has it, as a
  fault of that message: it becomes a dead letter, and the next message is taken.

An error of the server (READONLY, UNBLOCKED, LOADING, MASTERDOWN, WRONGTYPE ...) counts as a lost
connection: with `broker_channel_error_retry` Celery connects again and continues once the server
has recovered.

A message that Celery itself refuses (a task that is not registered, content that is not accepted)
is reported as Celery reports it, and becomes a dead letter too. Nothing of kombu or Celery is
patched: another app in the process keeps its own classes. Written for kombu 5.7 and Celery 5.7; it
uses their `_create_client`, `_brpop_read`, `_deliver`, `_deliver_fanout_message` and
`_receive_one`.
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
    # The classes below are put in front of a class that is known only at run time.
    from typing import Any as _Above

    from hermes_celery.clock import Clock
    from hermes_celery.store import Letters
else:
    _Above = object

_log = logging.getLogger(__name__)
_ATTRIBUTE = "_hermes_celery_dead_letters"
_BEFORE_TRACING = "_hermes_celery_before_tracing"
_BROADCAST = "(broadcast)"
#: Errors that mean that there is no message, or that the server is at fault. kombu counts every
#: KeyError as a lost connection; here a KeyError means that the message lacks a part.
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
#: Seconds between two attempts on a server that answers and refuses.
_REFUSED_PAUSE_SECONDS = 1.0
#: The methods that Celery calls when it refuses a message, and the error's position among their
#: arguments.
_REFUSALS = {"on_unknown_message": None, "on_unknown_task": 2, "on_invalid_task": 2,
             "on_decode_error": 1}  # fmt: skip


class _Unreadable(Exception):
    """A message that must not reach Celery; the text says why."""


class _Refused(_Unreadable):
    """A message that every worker of this app would refuse, so its run ends at once."""


class DeadLetters:
    """Stores messages that a worker's consumer cannot read. Never raises: the worker continues."""

    def __init__(
        self,
        letters: Letters,
        *,
        clock: Clock,
        worker: str,
        handed_on_failed: Callable[[str, str], None],
    ) -> None:
        """`handed_on_failed` gets a run that waits for what a message was to publish, and why."""
        self._letters = letters
        self._handed_on_failed = handed_on_failed
        self._clock = clock
        self._worker = worker
        self._complaint = RateLimitedLog()
        #: Celery's request of the message that is being delivered, once Celery counts it as
        #: reserved.
        self.reserved: Any = None

    def let_go(self) -> None:
        """Free the slot that Celery reserved for a message that goes no further."""
        request, self.reserved = self.reserved, None
        if request is not None:
            state.task_ready(request)

    def put(self, raw: bytes, *, queue: str, why: str, is_final: bool = False) -> None:
        """Store a message as a dead letter; log the first, and then one a minute.

        With `is_final` its run ends at once, because no worker would take a copy of the message. If
        the message belongs to a task that took over a run, that run ends with the first dead
        letter: nobody sends another copy of such a task.
        """
        self._keep(raw, queue=queue, why=why, is_final=is_final)
        # Only now: this reads the message, which may itself be at fault.
        self._report_waiting_run(raw, why)

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

    def _report_waiting_run(self, raw: bytes, why: str) -> None:
        try:
            message = loads(raw)
        except Exception:  # noqa: BLE001 - decoding types of kombu or a project may raise anything
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
    """Make the workers of this app, and of no other, consume safely.

    Call it before the worker is made.
    """
    if hasattr(app, _ATTRIBUTE):
        return
    setattr(app, _ATTRIBUTE, dead_letters)
    app.amqp.Connection = type(
        "SafeConnection", (_SafeConnection, app.amqp.Connection), {"dead_letters": dead_letters}
    )
    app.steps["consumer"].add(_RefusalLetters)
    app.conf.broker_channel_error_retry = True


def before_tracing(app: Celery, act: Callable[[], None]) -> None:
    """Call `act` each time before a consumer of this app builds the tracers of its tasks."""
    setattr(app, _BEFORE_TRACING, act)


class _SafeConnection(_Above):  # type: ignore[misc]  # kombu carries no types
    """A connection class in front of the app's own."""

    dead_letters: DeadLetters

    def Pool(self, limit: int | None = None, **options: Any) -> Any:
        """Return the pool that Celery publishes through."""
        if self.transport_cls != "sentinel":
            return super().Pool(limit, **options)
        return _SafePool(self, limit, **options)  # type: ignore[no-untyped-call]

    def get_transport_cls(self) -> Any:
        """Return the transport of the URL; for Redis, with a safe channel."""
        transport: Any = super().get_transport_cls()
        is_redis = issubclass(transport, redis_transport.Transport)
        return _safe_transport(transport) if is_redis else transport


class _SafePool(ConnectionPool):
    """A pool for Sentinels, with connections of a class of ours; see MasterConnection."""

    def new(self) -> Any:
        """Return a connection that is not yet open."""
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
    """Return the connection classes for a channel with Sentinels to ask; {} for any other."""
    if not issubclass(transport.Channel, redis_transport.SentinelChannel):
        return {}
    return {"connection_class": MasterConnection, "connection_class_ssl": MasterTlsConnection}


@cache
def _safe_transport(transport: Any) -> Any:
    """Return a transport class like this one (plain or Sentinel) with a safe channel."""
    channel = type("SafeChannel", (_SafeChannel, transport.Channel), _asking(transport))
    return type("SafeTransport", (_SafeTransport, transport), {"Channel": channel})


class _SafeTransport(_Above):  # type: ignore[misc]  # kombu carries no types
    """A transport class in front of a Redis transport."""

    def _deliver(self, message: Any, queue: str) -> None:
        fault = fault_of(message)
        if fault is not None:
            raise _Unreadable(fault)
        super()._deliver(message, queue)


class _SafeChannel(_Above):  # type: ignore[misc]  # kombu carries no types
    """A channel class in front of the Redis transport's."""

    #: Queue and message that were taken from the server but not yet passed to Celery.
    _taken: tuple[Any, Any] | None = None
    #: The last answer of the subscription.
    _last_answer: Any = None

    def close(self) -> None:
        """Close the channel; restore nothing once kombu has dropped the connection's address.

        After a lost connection Celery closes twice. The first time may fail. The second time kombu
        would restore the taken messages through a connection without an address, which ends the
        worker. Messages that are not restored come back after kombu's visibility timeout; runs are
        pushed again before that.
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

        kombu reads when there is something to read. If that is the end of the connection, redis-py
        connects again and then waits for the next broadcast, possibly for ever. A worker whose
        subscription alone was closed (by `CLIENT KILL TYPE pubsub`, a limit of the server's
        buffers, or a failover) would take no more messages.
        """
        subscription: Any = self._create_client(asynchronous=True).pubsub()
        subscription.parse_response = partial(
            self._read_subscription, partial(subscription.parse_response, block=False, timeout=0)
        )
        return subscription

    def _read_subscription(self, parse: Callable[[], Any]) -> Any:
        self._last_answer = None
        self._last_answer = parse()
        return self._last_answer

    def _answer(self, parse: Callable[..., Any], connection: Any, command: str, **kw: Any) -> Any:
        """Return the server's answer; keep that of BRPOP as it came."""
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
        except Exception as error:  # an invalid message must not end the worker
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
        except Exception as error:  # noqa: BLE001 - an invalid broadcast must not end the worker
            self._bury(dumps(message).encode(), queue=f"{_BROADCAST} {exchange}", error=error)
            return False

    def _receive_one(self, client: Any) -> Any:
        try:
            return super()._receive_one(client)
        except _NOT_THE_MESSAGE:
            raise
        except Exception as error:  # a broadcast that cannot be decoded must not end the worker
            if self._last_answer is None:
                raise
            # kombu itself ignores a broadcast that is not JSON.
            self._bury(b"", queue=_BROADCAST, error=error)
            return False

    def _bury(self, raw: bytes, *, queue: str, error: Exception) -> None:
        why = str(error) if isinstance(error, _Unreadable) else error_text(error)
        self.connection.client.dead_letters.put(
            raw, queue=queue, why=why, is_final=isinstance(error, _Refused)
        )
        tag = _delivery_tag(raw)
        if tag is not None:
            # kombu may have noted it as delivered and would restore it to its queue.
            self.basic_ack(tag)


def _delivery_tag(raw: bytes) -> str | None:
    """Return a message's delivery tag; None for one so broken that kombu noted nothing."""
    try:
        tag = loads(raw)["properties"]["delivery_tag"]
    except Exception:  # noqa: BLE001 - decoding types of kombu or a project may raise anything
        return None
    return tag if isinstance(tag, str) else None


def _text(name: bytes | str) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name


class _RefusalLetters(bootsteps.Step):  # type: ignore[misc]  # Celery carries no types
    """Turns messages that Celery itself refuses into dead letters, after Celery's own report."""

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        for name, position in _REFUSALS.items():
            setattr(consumer, name, _reported(getattr(consumer, name), position))
        consumer.on_task_message.add(_checked(getattr(consumer.app, _ATTRIBUTE)))
        for name in ("on_connection_error_before_connected", "on_connection_error_after_connected"):
            setattr(consumer, name, _pausing_after_refusal(consumer, getattr(consumer, name)))
        consumer.start = _failing_without_files(consumer, consumer.start)
        act = getattr(consumer.app, _BEFORE_TRACING, None)
        if act is not None:
            consumer.update_strategies = _after(act, consumer.update_strategies)


def _after(act: Callable[[], None], update: Callable[[], None]) -> Callable[[], None]:
    def act_and_update() -> None:
        act()
        update()

    return act_and_update


def _pausing_after_refusal(consumer: Any, note: Callable[..., None]) -> Callable[[Exception], None]:
    """Return an error handler that pauses when the server answers but refuses.

    Celery waits only for a server that is away; it would ask a refusing server again at once.
    """

    def note_and_wait(error: Exception) -> None:
        note(error)
        if isinstance(error, consumer.channel_errors):
            time.sleep(_REFUSED_PAUSE_SECONDS)

    return note_and_wait


def _failing_without_files(consumer: Any, start: Callable[[], None]) -> Callable[[], None]:
    """Return a start that fails when file descriptors run out.

    Celery ends such a worker with exit code 0, as if all were well.
    """

    def start_or_fail() -> None:
        try:
            start()
        except WorkerTerminate:
            if not state.should_terminate:
                consumer.controller.exitcode = EX_FAILURE
                why = "it ran out of open files; raise its limit (ulimit -n, LimitNOFILE=)"
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
        """Refuse a task whose arguments no pool can take; Celery has already reserved a slot."""
        dead_letters.reserved = request
        embed = request._payload[2]
        fault = fault_of_call(request.body, request.args, request.kwargs, embed)
        if fault is not None:
            raise _Unreadable(fault)

    return check
