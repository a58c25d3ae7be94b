"""How a run goes on with another message, in each way in which Celery lets a task hand itself on.

`self.retry`, `self.replace`, `self.apply_async(task_id=self.request.id)` and what else sends a
message with the task's own id mean: this is not over, go on with that one. In a chain or a chord
that takes a task's place only the last message has its id, and it is published much later, by a
task that inherited the session. So our header says of each message that a run publishes, directly
or through others, which Celery id the run's own message has (`message`), and how often that was
sent on (`hop`). A message with that id goes on with the run; one whose `hop` is not higher than
what was performed before is a copy.

A run whose task handed it on is queued, waits for that one message, and nobody pushes another
(`claim.lua`, `put_back.lua`). If a task that leads there fails, the run has failed; if the message
never comes, it is lost after a day, and that of a retry as soon as the broker should have brought
it back from a worker that died with it; it waits while the message is on its queue. Where the run
ended in the meantime, by an error after its task had sent itself on (in `on_failure`, say), Celery
would execute the message all the same, and so it is: beside the record, which is final. What was
cancelled or timed out is never executed again.
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

#: In our header: the run ended as `sent`, so whoever takes the message asks for no claim.
UNFOLLOWED = "unfollowed"
#: In our header: how often the run's own message was sent on.
_HOP = "hop"
_RUNS_OWN_ID = 2
_DEEPEST = 20
#: Where signatures hold other signatures.
_PARTS = {"chain", "chord", "tasks", "header", "body"}


class PerformedMessage:
    """The message that is being performed, as far as it has to do with a run."""

    def __init__(self, header: Mapping[str, Any], session: Session) -> None:
        #: The Celery id of the message that carries the run.
        self.message = str(header.get("message") or session.run_id)
        self.hop = hop_of(header)
        self.namespace = namespace_of(header)
        self.is_unfollowed = bool(header.get(UNFOLLOWED))
        #: Whether the run goes on with another message.
        self.is_handed_on = False
        #: Where that went, as far as Celery says so; "" where it is not known.
        self.queue = ""
        self.priority: int | None = None
        #: The retry with which it goes on although its task went on too (`throw=False`).
        self.retry: Retry | None = None
        #: Whether it was to be tried again, and the message of that could not be published.
        self.is_retry_lost = False


_carrier: ContextVar[PerformedMessage | None] = ContextVar("hermes_celery_carrier", default=None)


def hop_of(header: Any) -> int:
    """How often a run's message was sent on; 0 where a header does not say, or says nonsense."""
    hop = header.get(_HOP) if isinstance(header, Mapping) else None
    if not isinstance(hop, int) or isinstance(hop, bool):
        return 0
    # It is written to the run's record as it comes.
    return hop if 0 < hop < MOST_HOPS else 0


@contextmanager
def performing(carrier: PerformedMessage) -> Iterator[None]:
    """What is published in this block is published by that message."""
    token = _carrier.set(carrier)
    try:
        yield
    finally:
        _carrier.reset(token)


def inherit(headers: dict[str, Any] | None = None, body: Any = None, **sent: Any) -> None:
    """Give a message that a run publishes the run's session; for `before_task_publish`.

    The tasks behind it that lead to the run's last message, in its chain or its chord, get it too:
    they are published outside of runs.
    """
    session, carrier = current_session(), _carrier.get()
    if headers is None:
        return
    if session is None:
        _count_hop(headers, body)
    elif carrier is None:
        headers.setdefault(HEADER, to_header(session))
    else:
        give, is_own = _HeaderGiver(carrier, session), _is_own(carrier, headers, body)
        if HEADER not in headers or is_own:
            headers[HEADER] = give.header(is_own=is_own)
        if is_own:
            _note_place(carrier, **sent)
        give.behind(body)


def _note_place(
    carrier: PerformedMessage, *, declare: Any = None, properties: Any = None, **_: Any
) -> None:
    """Note to which queue the run's own message goes; a route by an exchange alone names none."""
    queues = [str(getattr(queue, "name", queue)) for queue in declare or ()]
    carrier.queue = queues[0] if len(queues) == 1 else ""
    priority = properties.get("priority") if isinstance(properties, Mapping) else None
    carrier.priority = priority if isinstance(priority, int) else None


def _count_hop(headers: dict[str, Any], body: Any) -> None:
    """Count what a task sends on after its own end, as in its `on_failure`."""
    task = current_task
    if HEADER not in headers or not task:
        return
    mine = (task.request.headers or {}).get(HEADER)
    is_run = run_carried_by(mine, message_id=str(task.request.id)) is not None
    if is_run and _id_of(headers, body) == task.request.id:
        headers[HEADER] = {**headers[HEADER], _HOP: hop_of(mine) + 1}


class _HeaderGiver:
    """Gives one run's header to the messages and signatures that it publishes."""

    def __init__(self, carrier: PerformedMessage, session: Session) -> None:
        self._carrier = carrier
        self._session = session

    def header(self, *, is_own: bool) -> dict[str, Any]:
        """The header of a message; with `is_own` it has the id of the run's."""
        carrier, session = self._carrier, self._session
        # An older reader takes a message with another id than the run's for a child of the run.
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

    def behind(self, body: Any) -> None:
        """Give it to what follows a message, in the third part of its body, if it ends the run."""
        embed = body[2] if isinstance(body, tuple) and len(body) == 3 else None
        if isinstance(embed, dict):
            for name in ("chain", "chord"):
                if leads_to(self._carrier.message, chain=embed.get(name), chord=None):
                    embed[name] = self._given(embed[name], 0)

    def _given(self, found: Any, depth: int) -> Any:
        """A copy of signatures that carry the header, and those within them."""
        if depth > _DEEPEST:
            return found
        if isinstance(found, (list, tuple)):
            return [self._given(one, depth + 1) for one in found]
        if not isinstance(found, Mapping) or "task" not in found:
            return found
        options = dict(found.get("options") or {})
        is_own = options.get("task_id") == self._carrier.message
        headers = dict(options.get("headers") or {})
        if HEADER not in headers:
            options["headers"] = {**headers, HEADER: self.header(is_own=is_own)}
        for part in (options, inner := dict(found.get("kwargs") or {})):
            for name in _PARTS & part.keys():
                part[name] = self._given(part[name], depth + 1)
        return {**found, "options": options, "kwargs": inner}


def _note_sent(headers: dict[str, Any] | None = None, body: Any = None, **_: Any) -> None:
    """Note that a run has sent its own message on; for `after_task_publish`."""
    carrier = _carrier.get()
    if carrier is not None and headers is not None and _is_own(carrier, headers, body):
        carrier.is_handed_on = True


def _is_own(carrier: PerformedMessage, headers: Mapping[str, Any], body: Any) -> bool:
    """Whether a message has the id of the run's."""
    return _id_of(headers, body) == carrier.message


def _id_of(headers: Mapping[str, Any], body: Any) -> str:
    # In Celery's first protocol the id is in the body.
    return str(headers.get("id") or (body.get("id") if isinstance(body, dict) else ""))


def connect() -> None:
    """Watch what is published in a session."""
    for signal, receiver, name in (
        (signals.before_task_publish, inherit, INHERIT_UID),
        (signals.after_task_publish, _note_sent, SENT_UID),
    ):
        signal.connect(receiver, dispatch_uid=name, weak=False)


def noting_replace(task: Any) -> Callable[[Any], Any]:
    """`task.replace`, which notes that the run goes on, also where its last message comes later."""
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
    """`task.retry`, which notes that Celery could not publish it, and rejects the task instead."""
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
    """Whether a task with that chain behind it, or in that chord, is to publish a message."""
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
    """The run that waits for what a task's message, as kombu decodes it, was to publish.

    Whatever is in the message, this raises nothing.
    """
    try:
        header, embed = message["headers"].get(HEADER), json.loads(b64decode(message["body"]))[2]
        awaited = header["message"]
        if not leads_to(awaited, chain=embed.get("chain"), chord=embed.get("chord")):
            return None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    return run_carried_by(header, message_id=awaited)
