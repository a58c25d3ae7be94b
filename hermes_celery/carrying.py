"""Carries the session through Celery: into the messages that a run publishes, and around the tasks
that carry it.

A task of the user's own that a job calls is a run like any other: its message carries our header,
which names that message as the run's. So the claim is taken before the user's code and the outcome
recorded after it; a message that comes twice never executes it. A task that merely inherited a
session from the run that published it only gets it bound.

Tasks are wrapped where Celery's own automatic retries wrap them: at the instance's `run`, before a
worker traces it. Celery's signals would not do: an exception in a handler of `task_prerun` is
swallowed, and the task would run without its session and without its claim.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Any

from celery import Celery, signals
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from kombu.utils.json import dumps

from hermes_celery.errors import PutBack, SessionError
from hermes_celery.interrupt import Interruption
from hermes_celery.job import JobSpec
from hermes_celery.output import CAP_BYTES
from hermes_celery.pulse import RunningRun
from hermes_celery.redaction import Redact
from hermes_celery.run import Outcome, RunState
from hermes_celery.session import (
    HEADER,
    Session,
    bound,
    current_session,
    from_header,
    run_carried_by,
    to_header,
)
from hermes_celery.user_code import INHERIT_UID

if TYPE_CHECKING:
    from hermes_celery.runner import Runner

#: When the leader sends a task's message again whose own retry did not come.
_RETRY_PATIENCE_SECONDS = 60.0
#: A task publishes its retry before it gives its run back, so the retry may come first.
_RETRY_TRIES = 50
_RETRY_PAUSE_SECONDS = 0.1
_OURS = ("hermes_celery.", "celery.")
_MARK = "_carries_session"
#: In our header: the run ended as `sent`, so whoever takes the message asks for no claim.
_UNFOLLOWED = "unfollowed"


def inherit(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Give a message that a run publishes the run's session; for `before_task_publish`."""
    session = current_session()
    if session is not None and headers is not None and HEADER not in headers:
        headers[HEADER] = to_header(session)


def connect() -> None:
    """Let every message that is published in a session inherit it."""
    signals.before_task_publish.connect(inherit, dispatch_uid=INHERIT_UID, weak=False)


def carry_all(app: Celery, *, runner: Callable[[], Runner], worker: str, redact: Redact) -> None:
    """Wrap every task of an app; before its worker starts, once all tasks are known."""
    for name, task in app.tasks.items():
        if not name.startswith(_OURS) and not hasattr(task, _MARK):
            setattr(task, _MARK, True)
            task.run = _carried(task, runner=runner, worker=worker, redact=redact)


def _carried(
    task: Any, *, runner: Callable[[], Runner], worker: str, redact: Redact
) -> Callable[..., Any]:
    run = task.run

    @wraps(run)
    def carried(*args: Any, **kwargs: Any) -> Any:
        request = task.request
        header = (request.headers or {}).get(HEADER, getattr(request, HEADER, None))
        if header is None or request.called_directly:
            return run(*args, **kwargs)
        session = _read(header)
        run_id = run_carried_by(header, message_id=request.id)
        if run_id is None or header.get(_UNFOLLOWED):
            if isinstance(session, SessionError):
                raise session
            with bound(session):
                return run(*args, **kwargs)
        call = _Call(lambda: run(*args, **kwargs), redact=redact)
        for _ in range(_RETRY_TRIES if request.retries else 1):
            state = runner().perform(run_id, session=session, worker=worker, work=call)
            if state != "taken":
                break
            time.sleep(_RETRY_PAUSE_SECONDS)
        if state == RunState.SENT and isinstance(session, Session):
            # Its own retries, which inherit the headers, are nobody's run either.
            request.headers = {**(request.headers or {}), HEADER: {**header, _UNFOLLOWED: True}}
            with bound(session):
                return run(*args, **kwargs)
        return call.result()

    return carried


def _read(header: object) -> Session | SessionError:
    try:
        return from_header(header)
    except SessionError as error:
        return error


class _Call:
    """One call of a user's task, as the work of a run."""

    def __init__(self, call: Callable[[], Any], *, redact: Redact) -> None:
        self._call = call
        self._redact = redact
        #: Celery hears of neither success nor failure of what was not executed.
        self._error: BaseException | None = Ignore()
        self._value: Any = None

    def perform(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        """Call it, and say how it went. Raises PutBack when the task asks for its own retry."""
        try:
            with Interruption() as interruption:
                stop.on_stop(interruption.fire)
                self._value = self._call()
        except Retry as error:
            self._error = error
            raise PutBack(wait_seconds=_seconds_until(error.when)) from None
        except (Ignore, Reject) as error:
            self._error = error
            return Outcome(state=RunState.SUCCEEDED, reason=type(error).__name__, silent=True)
        except Exception as error:  # noqa: BLE001 - recorded on the run, raised again for Celery
            self._error = error
            return self._failed(error, stop)
        self._error = None
        output = self._redact(_shown(self._value))
        return Outcome(state=RunState.SUCCEEDED, output=output, silent=not output)

    def result(self) -> Any:
        """What the task returned. Raises what it raised, or Ignore where it was not executed."""
        if self._error is not None:
            raise self._error
        return self._value

    def _failed(self, error: Exception, stop: RunningRun) -> Outcome:
        state = RunState.FAILED
        if isinstance(error, SoftTimeLimitExceeded):
            state = RunState.CANCELLED if stop.is_set() else RunState.TIMED_OUT
        text = f"{type(error).__name__}: {error}".rstrip(": ").encode(errors="replace")
        trace = "".join(traceback.format_exception(error)).encode(errors="replace")
        is_asked = state is RunState.CANCELLED
        return Outcome(
            state=state,
            error=None if is_asked else self._redact(text).decode(errors="replace"),
            stderr=self._redact(trace),
        )


def _shown(value: Any) -> bytes:
    """A task's return value as output: text as it is, nothing for None, the rest as JSON."""
    if value is None:
        return b""
    if isinstance(value, str):
        return value.encode(errors="replace")[:CAP_BYTES]
    try:
        return str(dumps(value)).encode()[:CAP_BYTES]
    except (TypeError, ValueError):
        return repr(value).encode(errors="replace")[:CAP_BYTES]


def _seconds_until(when: datetime | float | None) -> float:
    if isinstance(when, datetime):
        aware = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max((aware - datetime.now(UTC)).total_seconds(), 0.0) + _RETRY_PATIENCE_SECONDS
    return float(when or 0) + _RETRY_PATIENCE_SECONDS
