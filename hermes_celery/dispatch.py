"""One occurrence -> one Celery message, field by field what `apply_async` puts on the wire.

`apply_async` costs 400 µs a message, most of it the same every time. So Celery and kombu build one
message per queue as a template, published into an in-memory transport with marks where the values
of one run belong; here the marks are filled in. What is in a message stays Celery's decision: a new
Celery with a new header changes the template, not this file. The message is pushed by a script, not
by kombu, so that schedule, record and message are one atomic step.

A job that calls a Celery task of the user's own gets that task's own message, with its arguments,
its routing and its options; what makes it a run is its id and our header (`carrying.py`). A message
whose options hold an instant (`expires`) is built anew each time.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from bisect import bisect
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, cast

import msgspec
from celery import Task
from kombu.connection import Connection
from kombu.transport import memory, virtual
from kombu.utils.json import dumps

from hermes_celery.errors import JobError
from hermes_celery.job import JobSpec, SessionSource
from hermes_celery.run import message_id_of
from hermes_celery.session import HEADER, Session, header_json, session_of
from hermes_celery.work import TaskCall

if TYPE_CHECKING:
    from celery import Celery

RUN_TASK = "hermes_celery.run"
DELIVER_TASK = "hermes_celery.deliver"
_RUN_ID, _MESSAGE_ID, _SHADOW, _TAG, _BODY, _SESSION = (
    f"hermes-celery-mark-{name}"
    for name in ("run-id", "message-id", "shadow", "tag", "body", "session")
)
#: kombu's own, where the app's transport options do not say otherwise.
_PRIORITY_STEPS = (0, 3, 6, 9)
_PRIORITY_SEPARATOR = "\x06\x16"
_MAX_TEMPLATES = 1_000
_encode = msgspec.json.Encoder().encode
_NOBODY = header_json(Session())
#: What messages that share a template have in common: queue, priority, call.
_Likeness = tuple[str | None, int | None, bytes]
_DELIVERY: _Likeness = (None, None, DELIVER_TASK.encode())


class Dispatch:
    """Builds the messages of runs for one Celery app."""

    def __init__(self, app: Celery, *, session: SessionSource = SessionSource.ORIGIN) -> None:
        self._app = app
        self._session = session
        self._templates: dict[_Likeness, _Template] = {}

    def queue(self, spec: JobSpec) -> str:
        """The Redis list that a job's messages go to: its queue, and its priority's part of it."""
        return self._template(spec).key

    def message(
        self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int = 1, push: int = 0
    ) -> bytes:
        """The message of one run; `push` counts those that were pushed before it.

        Raises SessionError when the job's session is too large, and JobError when its task cannot
        be called like that.
        """
        session = session_of(
            spec, run_id=run_id, due_ms=due_ms, attempt=attempt, default=self._session
        )
        template = self._template(spec)
        if spec.task is not None and "expires" in spec.task.options:
            template = self._built(spec)
        message_id = message_id_of(run_id, push=push)
        # The claim of our own task does not look at the header, so older readers may have it.
        is_child_to_old_readers = push and spec.task is not None
        header = header_json(
            session, message=message_id, needs_version=2 if is_child_to_old_readers else 1
        )
        return template.fill(run_id=run_id, message_id=message_id, shadow=spec.name, header=header)

    def delivery_queue(self) -> str:
        """The Redis list that deliveries go to."""
        return self._delivery_template().key

    def delivery_message(self, delivery_id: str, *, label: str, push: int = 0) -> bytes:
        """The message of one delivery; Flower shows it as that of `label`, the job's name.

        It never has the job's own name there: that would count it as a run of the job. `push` tells
        it from those before it.
        """
        return self._delivery_template().fill(
            run_id=delivery_id,
            message_id=message_id_of(delivery_id, push=push),
            shadow=f"deliver: {label}",
            header=_NOBODY,
        )

    def _delivery_template(self) -> _Template:
        template = self._templates.get(_DELIVERY)
        if template is None:
            # A run's own message has its id already.
            call = TaskCall(name=DELIVER_TASK, args=[_RUN_ID], options={"shadow": _SHADOW})
            queue, message = _published(self._app, call, task_id=f"deliver-{_MESSAGE_ID}")
            template = _Template(message, key=self._redis_key(queue, message))
            self._templates[_DELIVERY] = template
        return template

    def _template(self, spec: JobSpec) -> _Template:
        task = b"" if spec.task is None else _encode(spec.task)
        key = (spec.queue, spec.priority, task)
        template = self._templates.get(key)
        if template is None:
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            template = self._templates[key] = self._built(spec)
        return template

    def _built(self, spec: JobSpec) -> _Template:
        options = {
            name: value
            for name, value in (("queue", spec.queue), ("priority", spec.priority))
            if value is not None
        }
        if spec.task is None:
            queue, message = _published(
                self._app,
                TaskCall(name=RUN_TASK, args=[_RUN_ID], options={**options, "shadow": _SHADOW}),
            )
        else:
            shown = _shown_as(self._app.tasks.get(spec.task.name))
            call = msgspec.structs.replace(
                spec.task, options={**shown, **spec.task.options, **options}
            )
            queue, message = _published(self._app, call)
        return _Template(message, key=self._redis_key(queue, message))

    def _redis_key(self, queue: str, message: dict[str, Any]) -> str:
        """kombu keeps a list per queue, and one more for each lower priority."""
        options = self._app.conf.broker_transport_options
        steps = tuple(options.get("priority_steps") or _PRIORITY_STEPS)
        priority = message["properties"].get("priority") or 0
        step = steps[bisect(steps, priority) - 1]
        suffix = f"{options.get('sep') or _PRIORITY_SEPARATOR}{step}" if step else ""
        return f"{options.get('global_keyprefix') or ''}{queue}{suffix}"


def _shown_as(task: Any) -> dict[str, str]:
    """The option that makes Flower show the job's name; none where the task names itself."""
    own = getattr(type(task), "shadow_name", Task.shadow_name)
    return {"shadow": _SHADOW} if own is Task.shadow_name else {}


class _Template:
    """One message with marks in it, cut into the pieces between them."""

    def __init__(self, message: dict[str, Any], *, key: str) -> None:
        self.key = key
        self._body = b64decode(message["body"]).split(_RUN_ID.encode())
        message["body"] = _BODY
        message["properties"]["delivery_tag"] = _TAG
        # In the order of what `fill` puts in their place. kombu draws a random tag per message; a
        # message's id is as unique.
        marks = (_RUN_ID, _MESSAGE_ID, _TAG, _SHADOW, _BODY, f'"{_SESSION}"')
        pieces = re.split("(" + "|".join(map(re.escape, marks)) + ")", dumps(message))
        self._format = b"%b".join(piece.replace("%", "%%").encode() for piece in pieces[::2])
        self._pick = itemgetter(*(marks.index(mark) for mark in pieces[1::2]))

    def fill(self, *, run_id: str, message_id: str, shadow: str, header: bytes) -> bytes:
        """The message of one run."""
        run, own = run_id.encode(), message_id.encode()
        body = b64encode(run.join(self._body))
        values = (run, own, own, _encode(shadow)[1:-1], body, header)
        return self._format % cast(tuple[bytes, ...], self._pick(values))


class _CatchingChannel(memory.Channel):
    """Keeps what is published instead of queueing it."""

    caught: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self.caught.append((queue, message))


class _CatchingTransport(memory.Transport):
    Channel = _CatchingChannel
    global_state = virtual.BrokerState()


def _published(
    app: Celery, call: TaskCall, *, task_id: str = _MESSAGE_ID
) -> tuple[str, dict[str, Any]]:
    """The queue and the message that `apply_async` makes of a call, marks for the run's values.

    Raises JobError when it goes to no queue, or to several.
    """
    caught = _CatchingChannel.caught
    caught.clear()
    with Connection(transport=_CatchingTransport) as connection:
        task = app.tasks.get(call.name)
        send = app.send_task if task is None else task.apply_async
        send(
            *((call.name,) if task is None else ()),
            args=tuple(call.args),
            kwargs=call.kwargs,
            task_id=task_id,
            headers={HEADER: _SESSION},
            connection=connection,
            **call.options,
        )
    if len(caught) != 1:
        queues = ", ".join(queue for queue, _ in caught) or "no queue"
        raise JobError(
            f"a message of the task {call.name} goes to {queues}, and a run needs exactly one; "
            "route it to one queue with a direct exchange"
        )
    return caught.pop()
