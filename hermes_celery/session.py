"""The session context of a run: in message headers, context variables and child environments.

A job stores who made it and where, and each of its runs gets that as its session. The session
travels in one header of the Celery message. In the worker it is bound to a context variable during
the run, and a child process gets it as environment variables. `os.environ` is never written, so
runs in one process cannot see each other's session, under any pool.

Reading follows Hermes' own rule (`gateway/session_context.py`). Inside a session every session
variable is set, even if only to "", and wins. Outside a session the environment answers, then the
default. Celery tasks that a run publishes inherit its session (`celery_app.user_tasks` adds the
header and binds it). Only the message whose Celery id is in the header is the run itself
(`run_carried_by`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import msgspec

from hermes_celery.core.job import JobSpec, Origin, SessionSource
from hermes_celery.core.targets import Target, first_chat
from hermes_celery.errors import SessionError
from hermes_celery.instant import from_ms, iso

#: The public names; the others are for this package.
__all__ = ["Session", "async_delivery_supported", "current_session", "get_session_env"]

#: The only header, so that no name of Celery's protocol is used.
HEADER = "hermes"
#: The newest version of the header that is read here. Version 2 is for a message whose id is not
#: the id of its run: a reader of version 1 would take it for a child of the run, and perform it
#: without a claim.
VERSION = 2
_FIRST_VERSION = 1
#: Far more than the names of a platform need; each message is copied several times.
MAX_HEADER_BYTES = 16_384


_NO_ORIGIN = Origin()
_NO_TARGET = Target()


class Session(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The user and chat that a run is for, and the occurrence that it executes."""

    origin: Origin = _NO_ORIGIN
    #: The first chat that the output goes to.
    deliver_to: Target = _NO_TARGET
    job_id: str = ""
    run_id: str = ""
    due_ms: int | None = None
    attempt: int | None = None

    def variables(self) -> dict[str, str]:
        """Return every session variable with its value; "" if it has none."""
        origin, target = self.origin, self.deliver_to
        return {
            "HERMES_SESSION_PLATFORM": origin.platform,
            "HERMES_SESSION_SOURCE": origin.source,
            "HERMES_SESSION_CHAT_ID": origin.chat_id,
            "HERMES_SESSION_CHAT_NAME": origin.chat_name,
            "HERMES_SESSION_THREAD_ID": origin.thread_id,
            "HERMES_SESSION_USER_ID": origin.user_id,
            "HERMES_SESSION_USER_NAME": origin.user_name,
            "HERMES_SESSION_KEY": origin.session_key,
            "HERMES_SESSION_ID": origin.session_id,
            "HERMES_SESSION_MESSAGE_ID": origin.message_id,
            "HERMES_SESSION_PROFILE": origin.profile,
            # Nobody listens after the end of a run, so a later result would reach nobody.
            "HERMES_SESSION_ASYNC_DELIVERY": "",
            "HERMES_UI_SESSION_ID": origin.ui_session_id,
            "HERMES_CRON_AUTO_DELIVER_PLATFORM": target.platform,
            "HERMES_CRON_AUTO_DELIVER_CHAT_ID": target.chat_id,
            "HERMES_CRON_AUTO_DELIVER_THREAD_ID": target.thread_id or "",
            "HERMES_CRON_SESSION": "1" if self.run_id else "",
            "HERMES_CRON_JOB_ID": self.job_id,
            "HERMES_CRON_RUN_ID": self.run_id,
            "HERMES_CRON_DUE_AT": "" if self.due_ms is None else iso(from_ms(self.due_ms)) or "",
            "HERMES_CRON_ATTEMPT": "" if self.attempt is None else str(self.attempt),
        }


class _Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The content of the header."""

    version: int
    session: Session
    #: The Celery id of the only message that carries the run; "" in messages that inherited the
    #: session, and in messages of older versions.
    message: str = ""
    #: The namespace with the run's record; "" in messages of older versions.
    namespace: str = ""


_current: ContextVar[Session | None] = ContextVar("hermes_celery_session", default=None)
_NAMES = frozenset(Session().variables())
_encode = msgspec.json.Encoder().encode


def current_session() -> Session | None:
    """Return the session of the run that this code belongs to; None outside of runs."""
    return _current.get()


def get_session_env(name: str, default: str = "") -> str:
    """Return a session variable by its environment name, like Hermes' function of the same name.

    Inside a run every session variable is set, even if only to "", and wins over the environment.
    Outside a run, and for any other name, `os.environ` answers, then `default`.
    """
    session = _current.get()
    if session is not None and name in _NAMES:
        return session.variables()[name]
    return os.environ.get(name, default)


def async_delivery_supported() -> bool:
    """Return whether a later result would reach anybody: True outside of runs, as in Hermes."""
    return _current.get() is None


@contextmanager
def bound(session: Session) -> Iterator[Session]:
    """Make `session` the current one in this block, and restore the previous one afterwards."""
    token = _current.set(session)
    try:
        yield session
    finally:
        _current.reset(token)


def session_of(
    spec: JobSpec,
    *,
    run_id: str,
    due_ms: int,
    attempt: int = 1,
    default: SessionSource = SessionSource.ORIGIN,
) -> Session:
    """Return the session of a run: its job's origin and first delivery target, and its occurrence.

    `default` decides for jobs that do not choose. If the origin is hidden, the delivery target
    stays: it is where the output goes, not who asked.
    """
    hides_origin = (spec.session or default) is SessionSource.NONE
    return Session(
        origin=_NO_ORIGIN if hides_origin else spec.origin or _NO_ORIGIN,
        deliver_to=first_chat(spec.deliver, origin=spec.origin) or _NO_TARGET,
        job_id=spec.id,
        run_id=run_id,
        due_ms=due_ms,
        attempt=attempt,
    )


def to_header(
    session: Session,
    *,
    message: str = "",
    needs_version: int = _FIRST_VERSION,
    namespace: str = "",
) -> dict[str, Any]:
    """Return the header's value in plain JSON types, as Celery's serializer needs it.

    The arguments are those of `header_json`. Raises SessionError if it is larger than 16 KiB.
    """
    text = header_json(session, message=message, needs_version=needs_version, namespace=namespace)
    built: dict[str, Any] = msgspec.json.decode(text)
    return built


def header_json(
    session: Session,
    *,
    message: str = "",
    needs_version: int = _FIRST_VERSION,
    namespace: str = "",
) -> bytes:
    """Return the header's value as JSON.

    `message` is the Celery id of the message, if it carries the session's run. Readers older than
    `needs_version` refuse the header. `namespace` is the namespace with the run's record. Raises
    SessionError if it is larger than 16 KiB.
    """
    header = _Header(version=needs_version, session=session, message=message, namespace=namespace)
    text = _encode(header)
    if len(text) > MAX_HEADER_BYTES:
        raise SessionError(
            f"the session of job {session.job_id} takes {len(text):,} bytes in the message's "
            f"header, more than {MAX_HEADER_BYTES:,}; shorten the names in its origin"
        )
    return text


def from_header(value: object) -> Session:
    """Read the header's value. Raises SessionError if it is invalid."""
    if not isinstance(value, Mapping):
        raise SessionError(f"the {HEADER!r} header is {type(value).__name__}, not an object")
    version = value.get("version")
    if not isinstance(version, int) or version < 1:
        raise SessionError(f"the {HEADER!r} header has no version: {str(value)[:100]}")
    if version > VERSION:
        raise SessionError(
            f"the {HEADER!r} header has version {version}, this worker reads up to {VERSION}; "
            "upgrade the worker"
        )
    if len(msgspec.json.encode(value)) > MAX_HEADER_BYTES:
        raise SessionError(f"the {HEADER!r} header is larger than {MAX_HEADER_BYTES:,} bytes")
    try:
        return msgspec.convert(value, _Header).session
    except msgspec.ValidationError as error:
        raise SessionError(f"the {HEADER!r} header is invalid: {error}") from None


def run_carried_by(value: object, *, message_id: str) -> str | None:
    """Return the id of the run that a message with this header carries; None if it carries none.

    `message_id` is the Celery id of the message. An otherwise invalid header is read too, so that
    its run can fail. A header without a message id is from an older version, where the message has
    the run's own id.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("session"), Mapping):
        return None
    run_id = value["session"].get("run_id")
    carrier = value.get("message") or run_id
    return run_id if isinstance(run_id, str) and run_id and carrier == message_id else None


def namespace_of(header: object) -> str:
    """Return the namespace with the record of the run in this header; "" if the header has none.

    Never raises, whatever the header contains.
    """
    named = header.get("namespace") if isinstance(header, Mapping) else None
    return named if isinstance(named, str) else ""


def child_environment(session: Session) -> dict[str, str]:
    """Return the session variables for a child process of the run."""
    return session.variables()
