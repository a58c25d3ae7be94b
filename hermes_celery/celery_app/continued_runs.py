"""Continues a run with another message, for each way in which a Celery task can hand its run on.

`self.retry`, `self.replace`, `self.apply_async(task_id=self.request.id)` and anything else that
sends a message with the task's own id mean: this is not over, continue with that message. If a
chain or a chord replaces a task, only its last message has the task's id. It is published much
later, by a task that inherited the session. Our header therefore says two things in each message
that a run publishes, directly or through others: the Celery id of the run's own message (`message`)
and how often the run was handed on (`hop`). A message with that id continues the run. A message
whose `hop` is not higher than what was performed before is a copy.

A run whose task handed it on is queued. It waits for that one message, and nobody pushes another
(`claim.lua`, `put_back.lua`). If a task that leads to the message fails, the run has failed. If the
message never comes, the run is lost: after a day, or for a retry as soon as the broker should have
redelivered it from a dead worker. While the message is on its queue, the run waits.

A run may end after its task handed it on, for example by an error in `on_failure`. Celery
still executes that message, and so do we, outside of the record, which is final. A cancelled
or timed-out run is never executed again.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from celery import current_task, signals
from celery.exceptions import Ignore, Reject, Retry

from hermes_celery.celery_app.publishing_code import INHERIT_UID, SENT_UID
from hermes_celery.core.run import MOST_HOPS
from hermes_celery.session import (
    HEADER,
    Session,
    current_session,
    namespace_of,
    run_carried_by,
    to_header,
)

#: In our header: the run ended as `sent`, so the worker that takes the message claims no run.
UNFOLLOWED = "unfollowed"
#: In our header: how often the run was handed on to another message.
_HOP = "hop"
_RUNS_OWN_ID = 2
_DEEPEST = 20
#: Parts of a signature that hold other signatures.
_PARTS = {"chain", "chord", "tasks", "header", "body"}


class PerformedMessage:
    """The message that is being performed, as far as it concerns a run."""

    def __init__(self, header: Mapping[str, Any], session: Session) -> None:
        #: The Celery id of the message that carries the run.
        self.message = str(header.get("message") or session.run_id)
        self.hop = hop_of(header)
        self.namespace = namespace_of(header)
        self.is_unfollowed = bool(header.get(UNFOLLOWED))
        #: Whether the run continues with another message.
        self.is_handed_on = False
        #: The queue of that message; "" if Celery does not say.
        self.queue = ""
        self.priority: int | None = None
        #: The retry that continues the run while its task runs on as well (`throw=False`).
        self.retry: Retry | None = None
        #: Whether a retry was requested but its message could not be published.
        self.is_retry_lost = False


_carrier: ContextVar[PerformedMessage | None] = ContextVar("hermes_celery_carrier", default=None)


def hop_of(header: Any) -> int:
    """Return how often a message's run was handed on; 0 if the header has no valid number."""
    hop = header.get(_HOP) if isinstance(header, Mapping) else None
    if not isinstance(hop, int) or isinstance(hop, bool):
        return 0
    # Limited, because it is written to the run's record unchanged.
    return hop if 0 < hop < MOST_HOPS else 0


@contextmanager
def performing(carrier: PerformedMessage) -> Iterator[None]:
    """Record that messages published in this block are published by `carrier`."""
    token = _carrier.set(carrier)
    try:
        yield
    finally:
        _carrier.reset(token)


def inherit(headers: dict[str, Any] | None = None, body: Any = None, **sent: Any) -> None:
    """Add the run's session to a message that a run publishes; for `before_task_publish`.

    The tasks behind it that lead to the run's last message, in its chain or its chord, get the
    session too: they are published outside of runs.
    """
    session, carrier = current_session(), _carrier.get()
    if headers is None:
        return
    if session is None:
        _count_hop(headers, body)
    elif carrier is None:
        headers.setdefault(HEADER, to_header(session))
    else:
        adder, is_own = _HeaderAdder(carrier, session), _is_own(carrier, headers, body)
        if HEADER not in headers or is_own:
            headers[HEADER] = adder.header(is_own=is_own)
        if is_own:
            _note_place(carrier, **sent)
        adder.add_behind(body)


def _note_place(
    carrier: PerformedMessage, *, declare: Any = None, properties: Any = None, **_: Any
) -> None:
    """Record the queue of the run's own message; a route by exchange alone names none."""
    queues = [str(getattr(queue, "name", queue)) for queue in declare or ()]
    carrier.queue = queues[0] if len(queues) == 1 else ""
    priority = properties.get("priority") if isinstance(properties, Mapping) else None
    carrier.priority = priority if isinstance(priority, int) else None


def _count_hop(headers: dict[str, Any], body: Any) -> None:
    """Count a message that a task sends on after its own end, as in its `on_failure`."""
    task = current_task
    if HEADER not in headers or not task:
        return
    mine = (task.request.headers or {}).get(HEADER)
    is_run = run_carried_by(mine, message_id=str(task.request.id)) is not None
    if is_run and _id_of(headers, body) == task.request.id:
        headers[HEADER] = {**headers[HEADER], _HOP: hop_of(mine) + 1}


class _HeaderAdder:
    """Adds one run's header to the messages and signatures that it publishes."""

    def __init__(self, carrier: PerformedMessage, session: Session) -> None:
        self._carrier = carrier
        self._session = session

    def header(self, *, is_own: bool) -> dict[str, Any]:
        """Return the header of a message; `is_own` if the message has the id of the run's own."""
        carrier, session = self._carrier, self._session
        # An older reader takes a message whose id is not the run's for a child of the run.
        version = _RUNS_OWN_ID if is_own and carrier.message != session.run_id else 1
        header = to_header(
            session,
            message=carrier.message,
            needs_version=version,
            namespace=carrier.namespace,
        )
        if carrier.hop + is_own:
            header[_HOP] = carrier.hop + is_own
        if carrier.is_unfollowed:
            header[UNFOLLOWED] = True
        return header

    def add_behind(self, body: Any) -> None:
        """Add the header to what follows a message, if that leads to the run's last message.

        Celery keeps it in the third part of the message's body.
        """
        embed = body[2] if isinstance(body, tuple) and len(body) == 3 else None
        if isinstance(embed, dict):
            for name in ("chain", "chord"):
                if leads_to(self._carrier.message, chain=embed.get(name), chord=None):
                    embed[name] = self._with_header(embed[name], 0)

    def _with_header(self, found: Any, depth: int) -> Any:
        """Return a copy of signatures with the header, also in the signatures within them."""
        if depth > _DEEPEST:
            return found
        if isinstance(found, (list, tuple)):
            return [self._with_header(one, depth + 1) for one in found]
        if not isinstance(found, Mapping) or "task" not in found:
            return found
        options = dict(found.get("options") or {})
        is_own = options.get("task_id") == self._carrier.message
        headers = dict(options.get("headers") or {})
        if HEADER not in headers:
            options["headers"] = {**headers, HEADER: self.header(is_own=is_own)}
        for part in (options, inner := dict(found.get("kwargs") or {})):
            for name in _PARTS & part.keys():
                part[name] = self._with_header(part[name], depth + 1)
        return {**found, "options": options, "kwargs": inner}


def _note_sent(headers: dict[str, Any] | None = None, body: Any = None, **_: Any) -> None:
    """Record that a run has sent its own message on; for `after_task_publish`."""
    carrier = _carrier.get()
    if carrier is not None and headers is not None and _is_own(carrier, headers, body):
        carrier.is_handed_on = True


def _is_own(carrier: PerformedMessage, headers: Mapping[str, Any], body: Any) -> bool:
    """Return whether a message has the id of the run's own message."""
    return _id_of(headers, body) == carrier.message


def _id_of(headers: Mapping[str, Any], body: Any) -> str:
    # In Celery's first protocol the id is in the body.
    return str(headers.get("id") or (body.get("id") if isinstance(body, dict) else ""))


def connect() -> None:
    """Connect the receivers that watch what a session publishes."""
    for signal, receiver, name in (
        (signals.before_task_publish, inherit, INHERIT_UID),
        (signals.after_task_publish, _note_sent, SENT_UID),
    ):
        signal.connect(receiver, dispatch_uid=name, weak=False)


def noting_replace(task: Any) -> Callable[[Any], Any]:
    """Return a `task.replace` that records that the run continues.

    The run continues even if the last message of the replacement is published later.
    """
    replace: Callable[[Any], Any] = task.replace

    @wraps(replace)
    def replace_and_note(sig: Any) -> Any:
        try:
            return replace(sig)
        except Ignore:
            carrier = _carrier.get()
            if carrier is not None:
                carrier.is_handed_on = True
            raise

    return replace_and_note


def noting_retry(task: Any) -> Callable[..., Any]:
    """Return a `task.retry` that records a retry.

    It also records when Celery could not publish the retry and rejects the task instead.
    """
    retry: Callable[..., Any] = task.retry

    @wraps(retry)
    def retry_and_note(*args: Any, **kwargs: Any) -> Any:
        carrier = _carrier.get()
        try:
            asked = retry(*args, **kwargs)
        except Reject:
            if carrier is not None:
                carrier.is_retry_lost = True
            raise
        if carrier is not None and isinstance(asked, Retry):
            carrier.retry = asked
        return asked

    return retry_and_note


def leads_to(message: str, *, chain: Any, chord: Any) -> bool:
    """Return whether a task with that chain behind it, or in that chord, will publish a message."""
    waiting = [(chain, 0), (chord, 0)]
    while waiting:
        found, depth = waiting.pop()
        if isinstance(found, (list, tuple)) and depth < _DEEPEST:
            waiting += [(one, depth + 1) for one in found]
        elif isinstance(found, Mapping) and depth < _DEEPEST:
            options = found.get("options") or {}
            if options.get("task_id") == message:
                return True
            for part in (options, found.get("kwargs") or {}):
                waiting += [(part.get(name), depth + 1) for name in _PARTS]
    return False


def run_behind(message: Any) -> str | None:
    """Return the run that waits for the message that a task should publish, or None.

    `message` is the message as kombu decodes it. Invalid content raises nothing.
    """
    try:
        header, embed = message["headers"].get(HEADER), json.loads(b64decode(message["body"]))[2]
        awaited = header["message"]
        if not leads_to(awaited, chain=embed.get("chain"), chord=embed.get("chord")):
            return None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    return run_carried_by(header, message_id=awaited)
