"""One occurrence -> one Celery message, field by field what `apply_async` puts on the wire.

`apply_async` costs 400 µs a message, most of it the same every time. So Celery and kombu build one
message per queue as a template, published into kombu's in-memory transport with marks where the
values of one run belong; here the marks are filled in. What is in a message stays Celery's
decision: a new Celery with a new header changes the template, not this file. The message is pushed
by a script, not by kombu, so that schedule, record and message are one atomic step.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

import msgspec
from kombu.connection import Connection
from kombu.utils.json import dumps

from hermes_celery.job import JobSpec
from hermes_celery.session import HEADER, Session, session_of, to_header

if TYPE_CHECKING:
    from celery import Celery

RUN_TASK = "hermes_celery.run"
_RUN_ID, _SHADOW, _TAG, _BODY, _SESSION = (
    f"hermes-celery-mark-{name}" for name in ("run-id", "shadow", "tag", "body", "session")
)
_encode = msgspec.json.Encoder().encode


class Dispatch:
    """Builds the messages of runs for one Celery app."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._templates: dict[str, _Template] = {}

    def queue(self, spec: JobSpec) -> str:
        """The Celery queue that a job's runs go to."""
        return str(self._app.conf.task_default_queue)

    def message(self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int = 1) -> bytes:
        """The message of one run. Raises SessionError when the job's session is too large."""
        queue = self.queue(spec)
        template = self._templates.get(queue)
        if template is None:
            template = self._templates[queue] = _Template(self._app, queue=queue)
        session = session_of(spec, run_id=run_id, due_ms=due_ms, attempt=attempt)
        return template.fill(run_id=run_id, shadow=spec.name, session=session)


class _Template:
    """One message with marks in it, cut into the pieces between them."""

    def __init__(self, app: Celery, *, queue: str) -> None:
        message = _published(app, queue=queue)
        body = base64.b64decode(message["body"])
        self._body_before, self._body_after = body.split(_RUN_ID.encode())
        message["body"] = _BODY
        message["properties"]["delivery_tag"] = _TAG
        marks = (_RUN_ID, _SHADOW, _TAG, _BODY, f'"{_SESSION}"')
        pieces = re.split("(" + "|".join(map(re.escape, marks)) + ")", dumps(message))
        self._texts = [piece.encode() for piece in pieces[::2]]
        self._marks = pieces[1::2]

    def fill(self, *, run_id: str, shadow: str, session: Session) -> bytes:
        """The message of one run."""
        run_id_bytes = run_id.encode()
        values = {
            _RUN_ID: run_id_bytes,
            _SHADOW: _encode(shadow)[1:-1],
            # kombu draws a random tag per message; a run's id is as unique.
            _TAG: run_id_bytes,
            _BODY: base64.b64encode(self._body_before + run_id_bytes + self._body_after),
            f'"{_SESSION}"': _encode(to_header(session)),
        }
        parts = [self._texts[0]]
        for mark, text in zip(self._marks, self._texts[1:], strict=True):
            parts += (values[mark], text)
        return b"".join(parts)


def _published(app: Celery, *, queue: str) -> dict[str, Any]:
    """The message as it lies on a queue after `apply_async`, with marks for the run's values."""
    with Connection("memory://") as connection:
        app.tasks[RUN_TASK].apply_async(
            args=(_RUN_ID,),
            task_id=_RUN_ID,
            shadow=_SHADOW,
            headers={HEADER: _SESSION},
            queue=queue,
            connection=connection,
        )
        message: dict[str, Any] = connection.default_channel._get(queue)
        return message
