"""One occurrence -> one Celery message, field by field what `apply_async` puts on the wire.

`apply_async` costs 400 µs a message, most of it the same every time. So Celery and kombu build one
message per queue as a template, with marks in place of the values of one run; here the marks are
filled in. Celery still decides what a message contains: a new Celery with a new header changes the
template, not this file. A script pushes the message, not kombu, so that schedule, record and
message are written in one atomic step.

Two kinds of messages come from templates:

- Our own messages, of runs and deliveries. They are built without `apply_async`: JSON,
  uncompressed, protocol 2, whatever the project's settings are. The project's receivers of publish
  signals are not called for them. They contain only an id and belong to no task of the project.
- Messages of a project's tasks whose publishing runs none of the project's code
  (`publishing_code.py`).

Any other message is built once, by the task's own `apply_async` (`message_channel.py`), after its
occurrence was admitted. Until then a stand-in takes its place, which begins with a space. `message`
never runs the project's code; `build` may.
"""

from __future__ import annotations

import logging
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec
from celery import Task
from celery.app.amqp import AMQP
from kombu.utils.json import dumps

from hermes_celery.celery_app.broker import key_prefix, list_of
from hermes_celery.celery_app.message_channel import (
    PublishedMessage,
    Send,
    catching_connection,
    listen,
    publish,
)
from hermes_celery.celery_app.publishing_code import UserCode
from hermes_celery.core.built_message import STAND_IN, BuildOutcome, BuiltMessage
from hermes_celery.core.job import JobSpec, SessionSource
from hermes_celery.core.run import is_scheduled, message_id_of
from hermes_celery.core.task_call import live_call
from hermes_celery.core.work import TaskCall
from hermes_celery.errors import JobError
from hermes_celery.events import event
from hermes_celery.session import HEADER, Session, header_json, session_of, to_header

if TYPE_CHECKING:
    from celery import Celery

_log = logging.getLogger(__name__)

RUN_TASK = "hermes_celery.run"
DELIVER_TASK = "hermes_celery.deliver"
_RUN_ID, _MESSAGE_ID, _SHADOW, _TAG, _BODY, _SESSION = (
    f"hermes-celery-mark-{name}"
    for name in ("run-id", "message-id", "shadow", "tag", "body", "session")
)
_MAX_TEMPLATES = 1_000
_encode = msgspec.json.Encoder().encode
_NOBODY = header_json(Session())
#: Messages with the same queue, priority and call share a template.
_Likeness = tuple[str | None, int | None, bytes]
_DELIVERY: _Likeness = (None, None, DELIVER_TASK.encode())
#: The attributes of a task that set where its messages go.
_ROUTING = ("queue", "exchange", "routing_key", "priority", "delivery_mode")


class OccurrenceListener(Protocol):
    """Is called for each scheduled occurrence before it is sent, as for Celery's beat entries."""

    def is_watched(self) -> bool:
        """Return whether any code watches occurrences."""

    def apply(self, spec: JobSpec, send: Send, options: dict[str, Any]) -> Any:
        """Let the watching code change the options, call `send`, and return its result."""


class MessageBuilder:
    """Builds the messages of runs and deliveries for one Celery app."""

    def __init__(
        self,
        app: Celery,
        *,
        session: SessionSource,
        entries: OccurrenceListener | None,
        in_tasks: bool,
        namespace: str,
    ) -> None:
        """`session` applies to jobs that set none; `entries` is called for each occurrence.

        `in_tasks` says whether a task of the project may be running where messages are built.
        `namespace` has the records of the runs.
        """
        self._app = app
        self._session = session
        self._namespace = namespace
        self._entries = entries
        self._user_code = UserCode(app, in_tasks=in_tasks)
        self._templates: dict[_Likeness, _Template] = {}
        listen()

    def queue(self, spec: JobSpec) -> str:
        """Return the Redis list for a job's messages; it depends on the job's queue and priority.

        If the project's code chooses the queue, or the message cannot be built, return the list of
        the app's default queue.
        """
        try:
            if not self._runs_user_code(spec):
                return self._template(spec).key
        except Exception as error:  # noqa: BLE001 - recorded on the occurrence when it is built
            _put_off(spec, error)
        return f"{key_prefix(self._app)}{self._app.conf.task_default_queue}"

    def message(
        self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int = 1, push: int = 0
    ) -> bytes:
        """Return the message of one run; `push` counts the messages pushed for it before.

        If it can only be built after the run was admitted, return a stand-in, which begins with a
        space.
        """
        try:
            if not self._runs_user_code(spec):
                return self._filled(spec, run_id=run_id, due_ms=due_ms, attempt=attempt, push=push)
        except Exception as error:  # noqa: BLE001 - recorded on the occurrence when it is built
            _put_off(spec, error)
        # An older program pushes the stand-in when it releases a held run. It is the message of a
        # delivery that does not exist, so it does nothing; the leader's rescue pushes the real one.
        return STAND_IN + self.delivery_message("none", label=spec.name)

    def build(
        self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int = 1, push: int = 0
    ) -> BuiltMessage:
        """Return the message of one admitted run and its queue; runs the project's code.

        Raises the errors of publishing a task, SessionError when the job's session is too large,
        and JobError when the message goes to no queue or to several.
        """
        if not self._runs_user_code(spec):
            message = self._filled(spec, run_id=run_id, due_ms=due_ms, attempt=attempt, push=push)
            return BuiltMessage(queue=self._template(spec).key, message=message)
        if self._app.conf.task_always_eager:
            raise JobError(f"task_always_eager is on: {spec.name} would run here, not on a worker")
        message_id = message_id_of(run_id, push=push)
        session = self._session_of(spec, run_id=run_id, due_ms=due_ms, attempt=attempt)
        published = publish(
            self._app,
            self._call_of(spec, shown=spec.name),
            message_id=message_id,
            header=to_header(
                session,
                message=message_id,
                needs_version=2 if push else 1,
                namespace=self._namespace,
            ),
            through=None if push or not is_scheduled(run_id) else self._through_entries(spec),
        )
        return self._built(spec, published, message_id=message_id)

    def runs_again(self, spec: JobSpec) -> bool:
        """Return whether the job's task is to run again after its worker was lost.

        The project says so with `acks_late` and `reject_on_worker_lost`.
        """
        task = None if spec.task is None else self._app.tasks.get(spec.task.name)
        return task is not None and bool(task.acks_late and task.reject_on_worker_lost)

    def delivery_queue(self) -> str:
        """Return the Redis list for deliveries."""
        return self._delivery_template().key

    def delivery_message(self, delivery_id: str, *, label: str, push: int = 0) -> bytes:
        """Return the message of one delivery; Flower shows it as `deliver: label`.

        `label` is the job's name. Without the prefix Flower would count the delivery as a run of
        the job. `push` distinguishes the message from earlier ones of the delivery.
        """
        return self._delivery_template().fill(
            run_id=delivery_id,
            message_id=message_id_of(delivery_id, push=push),
            shadow=f"deliver: {label}",
            header=_NOBODY,
        )

    def _runs_user_code(self, spec: JobSpec) -> bool:
        if spec.task is None:
            return False
        if self._entries is not None and self._entries.is_watched():
            return True
        return self._user_code.runs_for(spec.task)

    def _session_of(self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int) -> Session:
        return session_of(
            spec, run_id=run_id, due_ms=due_ms, attempt=attempt, default=self._session
        )

    def _filled(self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int, push: int) -> bytes:
        session = self._session_of(spec, run_id=run_id, due_ms=due_ms, attempt=attempt)
        message_id = message_id_of(run_id, push=push)
        # The claim of our own task does not read the header, so older readers may take it.
        is_child_to_old_readers = push and spec.task is not None
        header = header_json(
            session,
            message=message_id,
            needs_version=2 if is_child_to_old_readers else 1,
            namespace="" if spec.task is None else self._namespace,
        )
        return self._template(spec).fill(
            run_id=run_id, message_id=message_id, shadow=spec.name, header=header
        )

    def _through_entries(self, spec: JobSpec) -> Callable[[Send, dict[str, Any]], Any] | None:
        entries = self._entries
        if entries is None or not entries.is_watched():
            return None
        return lambda send, options: entries.apply(spec, send, options)

    def _call_of(self, spec: JobSpec, *, shown: str) -> TaskCall:
        """Return a job's task call; its options include the job's queue, priority and name."""
        assert spec.task is not None
        named = _shown_as(self._app.tasks.get(spec.task.name), shown)
        call = live_call(spec.task)
        return msgspec.structs.replace(call, options={**named, **call.options, **_routing_of(spec)})

    def _built(
        self, spec: JobSpec, published: PublishedMessage, *, message_id: str
    ) -> BuiltMessage:
        name = "" if spec.task is None else spec.task.name
        if published.message is not None:
            queue, message = published.message
            message["properties"]["delivery_tag"] = message_id
            key = self._redis_key(queue, message)
            return BuiltMessage(queue=key, message=dumps(message).encode())
        if not published.elsewhere:
            return BuiltMessage(
                way=BuildOutcome.NOWHERE,
                why=f"not published: apply_async of {name} sent no message (one queued already?)",
            )
        if published.carries_run:
            return BuiltMessage(way=BuildOutcome.ELSEWHERE)
        return BuiltMessage(
            way=BuildOutcome.UNFOLLOWED,
            why=(
                f"apply_async of {name} published the message under the id {published.elsewhere} "
                "and dropped the given options (task_id, headers), so nobody reports how it ends"
            ),
        )

    def _delivery_template(self) -> _Template:
        template = self._templates.get(_DELIVERY)
        if template is None:
            # The prefix keeps the id apart from that of a run's own message.
            template = self._own(DELIVER_TASK, task_id=f"deliver-{_MESSAGE_ID}", routing={})
            self._templates[_DELIVERY] = template
        return template

    def _template(self, spec: JobSpec) -> _Template:
        task = b"" if spec.task is None else _encode(spec.task)
        key = (spec.queue, spec.priority, task)
        template = self._templates.get(key)
        if template is None:
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            template = self._templates[key] = self._new_template(spec)
        return template

    def _new_template(self, spec: JobSpec) -> _Template:
        if spec.task is None:
            return self._own(RUN_TASK, task_id=_MESSAGE_ID, routing=_routing_of(spec))
        published = publish(
            self._app,
            self._call_of(spec, shown=_SHADOW),
            message_id=_MESSAGE_ID,
            header=_SESSION,
        )
        if published.message is None:
            raise JobError(f"apply_async of {spec.task.name} published no message")
        queue, message = published.message
        return _Template(message, key=self._redis_key(queue, message))

    def _own(self, name: str, *, task_id: str, routing: Mapping[str, Any]) -> _Template:
        """Return a template of a task of ours, as `apply_async` would build it.

        Only the codec differs: it is always JSON, uncompressed.
        """
        app, task = self._app, self._app.tasks.get(name)
        amqp = app.amqp
        set_on_task = {
            option: value
            for option in _ROUTING
            if (value := getattr(task, option, None)) is not None
        }
        route = dict(amqp.router.route({**set_on_task, **routing}, name, (_RUN_ID,), {}, task))
        place, declared = _place_of(amqp, route)
        made = AMQP.as_task_v2(
            amqp, task_id, name, args=(_RUN_ID,), kwargs={}, shadow=_SHADOW, ignore_result=True,
            reply_to=app.thread_oid,
        )  # fmt: skip
        with catching_connection() as connection:
            AMQP.Producer(connection, auto_declare=False).publish(
                made.body,
                headers={**made.headers, HEADER: _SESSION},
                serializer="json",
                declare=declared,
                **place,
                **{**made.properties, **route},
            )
            queue, message = connection.transport.caught[0]
        return _Template(message, key=self._redis_key(queue, message))

    def _redis_key(self, queue: str, message: dict[str, Any]) -> str:
        return list_of(self._app, queue, priority=message["properties"].get("priority"))


def _put_off(spec: JobSpec, error: Exception) -> None:
    event(_log, "message.put_off", level=logging.DEBUG, job=spec.name, why=error)


def _routing_of(spec: JobSpec) -> dict[str, Any]:
    return {
        name: value
        for name, value in (("queue", spec.queue), ("priority", spec.priority))
        if value is not None
    }


def _shown_as(task: Any, name: str) -> dict[str, str]:
    """Return the option that makes Flower show the job's name; {} if the task names itself."""
    own = getattr(type(task), "shadow_name", Task.shadow_name)
    return {"shadow": name} if own is Task.shadow_name else {}


def _place_of(amqp: Any, route: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Return the exchange and key that Celery's `send_task_message` would use, and the queues.

    The queues are those that it would declare. Removes those options from `route`.
    """
    queue, exchange = route.pop("queue", None), route.pop("exchange", None)
    routing_key = route.pop("routing_key", None)
    mode = route.pop("delivery_mode", None)
    if queue is None and exchange is None:
        queue = amqp.default_queue
    queue = amqp.queues[queue] if isinstance(queue, str) else queue
    target = queue.exchange if queue is not None else exchange
    kind = route.pop("exchange_type", None) or getattr(target, "type", None) or "direct"
    if (not exchange or not routing_key) and kind == "direct":
        exchange, routing_key = "", queue.name
    elif exchange is None:
        exchange = queue.exchange.name or amqp.default_exchange
        routing_key = routing_key or queue.routing_key or amqp.app.conf.task_default_routing_key
    mode = mode or getattr(target, "delivery_mode", None)
    place = {
        "exchange": exchange,
        "routing_key": routing_key,
        "delivery_mode": mode or amqp.app.conf.task_default_delivery_mode,
    }
    return place, [] if queue is None else [queue]


class _Template:
    """One message with marks in it, cut into the pieces between the marks."""

    def __init__(self, message: dict[str, Any], *, key: str) -> None:
        self.key = key
        self._body = b64decode(message["body"]).split(_RUN_ID.encode())
        #: The body of a project's task has no run id, so it is the same in each message.
        self._same_body = message["body"].encode() if len(self._body) == 1 else None
        message["body"] = _BODY
        message["properties"]["delivery_tag"] = _TAG
        # In the order in which `fill` replaces them. kombu makes a random delivery tag per message;
        # the message's id is just as unique.
        marks = (_RUN_ID, _MESSAGE_ID, _TAG, _SHADOW, _BODY, f'"{_SESSION}"')
        pieces = re.split("(" + "|".join(map(re.escape, marks)) + ")", dumps(message))
        self._format = b"%b".join(piece.replace("%", "%%").encode() for piece in pieces[::2])
        self._pick = itemgetter(*(marks.index(mark) for mark in pieces[1::2]))

    def fill(self, *, run_id: str, message_id: str, shadow: str, header: bytes) -> bytes:
        """Return the message of one run."""
        run = run_id.encode()
        own = run if message_id is run_id else message_id.encode()
        body = self._same_body or b64encode(run.join(self._body))
        values = (run, own, own, _encode(shadow)[1:-1], body, header)
        return self._format % cast(tuple[bytes, ...], self._pick(values))
