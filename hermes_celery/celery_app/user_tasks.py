"""Carries the session through Celery: into the messages that a run publishes, and their tasks.

When a job calls a task of the user's own, that is a run like any other: the message has our header,
which names it as the run's message. The run is claimed before the user's code and its outcome is
recorded afterwards, so a duplicate message never executes it. A task that only inherited a session
from the run that published it gets the session bound, nothing else.

Tasks are wrapped where Celery's own automatic retries wrap them: at the instance's `run`, before a
worker traces it. Celery's signals would not do. Celery swallows an exception in a `task_prerun`
handler, and the task would run without its session and its claim.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from kombu.utils.json import dumps

from hermes_celery.celery_app.broker import list_of
from hermes_celery.celery_app.continued_runs import (
    UNFOLLOWED,
    PerformedMessage,
    hop_of,
    noting_replace,
    noting_retry,
    performing,
)
from hermes_celery.celery_app.flower_texts import RunFailed, tell_revoked
from hermes_celery.celery_app.interrupt import Interruption
from hermes_celery.celery_app.unusable_results import unusable
from hermes_celery.core.job import JobSpec
from hermes_celery.core.output import CAP_BYTES
from hermes_celery.core.policy import retries_loss
from hermes_celery.core.run import PATIENCE_SECONDS, Outcome, RunState
from hermes_celery.errors import PutBack, SessionError, error_text
from hermes_celery.events import event
from hermes_celery.masking.output import Redact
from hermes_celery.running.escaped_exceptions import is_green_timeout, state_after
from hermes_celery.running.heartbeat import RunningRun
from hermes_celery.running.taken_message import TakenMessage
from hermes_celery.session import (
    HEADER,
    Session,
    bound,
    from_header,
    namespace_of,
    run_carried_by,
)

if TYPE_CHECKING:
    from hermes_celery.running.runner import Runner

#: Seconds after which the leader sends the message of a retry that did not come.
_RETRY_PATIENCE_SECONDS = 60.0
#: kombu's default visibility timeout: after it, a dead worker's message goes to another worker.
_VISIBILITY_SECONDS = 3600.0
#: Added to that timeout, because kombu looks for such messages only every 100 seconds.
_VISIBILITY_GRACE_SECONDS = 180.0
#: A task publishes its retry before it puts its run back, so the retry may arrive first.
_RETRY_TRIES = 50
_RETRY_PAUSE_SECONDS = 0.1
_OURS = ("hermes_celery.",)
_MARK = "_carries_session"
#: Final states of a run that may have one more message, which Celery would execute.
_LEFT_OPEN = (RunState.SUCCEEDED, RunState.FAILED, RunState.LOST)
_log = logging.getLogger(__name__)


def wrap_tasks(
    app: Celery,
    *,
    runner: Callable[[], Runner],
    worker: str,
    redact: Redact,
    namespaces: Collection[str],
    time_limit: float | None = None,
) -> None:
    """Wrap every task of an app that is not yet wrapped; call it before its worker traces them.

    `time_limit` is the worker's own hard limit in seconds, for tasks that have none. A run of a
    namespace that is not in `namespaces` is followed there, or by nobody: its task is called, and
    nothing is reported.
    """
    for name, task in app.tasks.items():
        if not name.startswith(_OURS) and not hasattr(task, _MARK):
            setattr(task, _MARK, True)
            task.run = _with_session(
                task,
                runner=runner,
                worker=worker,
                redact=redact,
                namespaces=namespaces,
                time_limit=time_limit,
            )
            task.replace = noting_replace(task)
            task.retry = noting_retry(task)


def _with_session(
    task: Any,
    *,
    runner: Callable[[], Runner],
    worker: str,
    redact: Redact,
    namespaces: Collection[str],
    time_limit: float | None,
) -> Callable[..., Any]:
    run = task.run

    @wraps(run)
    def with_session(*args: Any, **kwargs: Any) -> Any:
        request = task.request
        header = _header_of(request, namespaces)
        if header is None or request.called_directly:
            return run(*args, **kwargs)
        session = _read(header)
        run_id = run_carried_by(header, message_id=request.id)
        if run_id is None or header.get(UNFOLLOWED):
            if isinstance(session, SessionError):
                raise session
            return _call_in_session(header, session, lambda: run(*args, **kwargs))
        carrier = PerformedMessage(header, session) if isinstance(session, Session) else None
        call = _Call(
            lambda: run(*args, **kwargs),
            task=task,
            carrier=carrier,
            redact=redact,
            worker=worker,
            time_limit=_time_limit(task) or time_limit,
        )
        state = _performed(runner(), call, run_id, session=session, worker=worker)
        if state == RunState.SENT and isinstance(session, Session):
            # Its own retries inherit the headers; they belong to no run either.
            header = {**header, UNFOLLOWED: True}
            request.headers = {**(request.headers or {}), HEADER: header}
        elif state != "taken" or not _is_still_executed(task, runner(), run_id, header):
            return _ended(task, call, state)
        if isinstance(session, SessionError):
            raise session
        return _call_in_session(header, session, lambda: run(*args, **kwargs))

    return with_session


def _time_limit(task: Any) -> float | None:
    """Return the hard limit in seconds of a message, else of its task, or None."""
    limits = task.request.timelimit
    hard = limits[0] if limits else None
    found: float | None = hard or task.time_limit
    return found


def _ended(task: Any, call: _Call, state: str) -> Any:
    """Return the task's result, or raise its error, for Celery.

    If the task was not called, or its run was cancelled, its message ends as revoked.
    """
    if call.was_called and state != RunState.CANCELLED:
        if call.error is not None:
            raise call.error
        return call.value
    request = task.request
    tell_revoked(task, state)
    if state == RunState.CANCELLED:
        keeps = not (request.ignore_result or task.ignore_result)
        task.backend.mark_as_revoked(request.id, state, request=request, store_result=keeps)
    raise Ignore(state)


def _header_of(request: Any, namespaces: Collection[str]) -> Any:
    """Return our header of a message, or None.

    If the run belongs to another namespace, the header is marked as unfollowed.
    """
    header: Any = (request.headers or {}).get(HEADER, getattr(request, HEADER, None))
    if (namespace := namespace_of(header)) and namespace not in namespaces:
        return {**header, UNFOLLOWED: True}
    return header


def _call_in_session(header: Any, session: Session, call: Callable[[], Any]) -> Any:
    """Make a call that is no run, in the session of the run that published it."""
    with bound(session), performing(PerformedMessage(header, session)):
        return call()


def _performed(
    runner: Runner, call: _Call, run_id: str, *, session: Session | SessionError, worker: str
) -> str:
    """Perform a run and return its state.

    A message that continues a run waits a moment until the message before it has ended.
    """
    request = call.task.request
    hop = 0 if call.carrier is None else call.carrier.hop
    message = TakenMessage(worker=worker, id=request.id, hop=hop)
    state = "taken"
    for _ in range(_RETRY_TRIES if request.retries or hop else 1):
        state = runner.perform(run_id, message=message, session=session, work=call)
        if state != "taken":
            break
        time.sleep(_RETRY_PAUSE_SECONDS)
    return state


def _is_still_executed(task: Any, runner: Runner, run_id: str, header: Any) -> bool:
    """Return whether to execute a message although its run is already taken.

    Sends the message again and raises Ignore if the run's previous message is still being
    performed.
    """
    found, hop = runner.look(run_id), hop_of(header)
    if found is None or hop <= found.hop or found.message != task.request.id:
        return False
    if found.state is RunState.RUNNING:
        task.signature_from_request(task.request).apply_async()
        raise Ignore
    if found.state not in _LEFT_OPEN:
        return False
    event(_log, "run.beside", run=run_id, state=found.state, hop=hop)
    return True


def _read(header: object) -> Session | SessionError:
    try:
        return from_header(header)
    except SessionError as error:
        return error


class _Call:
    """One call of a user's task, as the work of a run."""

    def __init__(
        self,
        call: Callable[[], Any],
        *,
        task: Any,
        carrier: PerformedMessage | None,
        redact: Redact,
        worker: str,
        time_limit: float | None,
    ) -> None:
        self._worker = worker
        self._time_limit = time_limit
        self._call = call
        self._redact = redact
        self.task = task
        self.carrier = carrier
        #: Ignore until the call is made: Celery then records neither success nor failure.
        self.error: BaseException | None = Ignore()
        self.was_called = False
        self.value: Any = None

    def perform(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        """Make the call and return its outcome. Raises PutBack when a message continues the run."""
        carrier = self.carrier
        with nullcontext() if carrier is None else performing(carrier):
            outcome = self._outcome(spec, session, stop)
        if carrier is not None and carrier.is_handed_on and not stop.is_set():
            if carrier.retry is not None:
                raise self._tried_again(carrier.retry, spec, session) from None
            hop = carrier.hop + 1
            raise PutBack(
                wait_seconds=PATIENCE_SECONDS,
                handed_on=carrier.message,
                hop=hop,
                queue=self._went_to(carrier),
            ) from None
        return outcome

    def _went_to(self, carrier: PerformedMessage) -> str:
        if not carrier.queue:
            return ""
        return list_of(self.task.app, carrier.queue, priority=carrier.priority)

    def _outcome(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        try:
            self.was_called = True
            with Interruption() as interruption:
                stop.on_stop(interruption.fire)
                self.value = self._call()
        except Retry as error:
            self.error = error
            raise self._tried_again(error, spec, session) from None
        except Reject as error:
            self.error = error
            return self._rejected(error)
        except Ignore as error:
            self.error = error
            return Outcome(state=RunState.SUCCEEDED, reason="Ignore", silent=True)
        except Exception as error:  # noqa: BLE001 - recorded on the run, raised again for Celery
            self.error = error.with_traceback(_from_user_code(error.__traceback__))
            return self._failed(error, stop)
        except BaseException as error:  # noqa: BLE001 - as above, for errors that are no Exception
            return self._escaped(error, stop)
        self.error = None
        if why := unusable(self.task, self.value):
            text = self._redact(why.encode(errors="replace")).decode(errors="replace")
            return Outcome(state=RunState.FAILED, error=text)
        output = self._redact(_shown(self.value))
        return Outcome(state=RunState.SUCCEEDED, output=output, silent=not output)

    def _tried_again(self, error: Retry, spec: JobSpec, session: Session) -> PutBack:
        """Return the PutBack of a retry: the run continues with the retry's message.

        A worker may die with that message; then the broker redelivers it. Only a run that may be
        started twice begins again before that.
        """
        carrier, seconds = self.carrier, _seconds_until(error.when)
        if carrier is None or not carrier.is_handed_on:
            # It raised Retry without a message, so the leader pushes one. The higher hop keeps a
            # late copy of the old message from being executed after the run has ended.
            hop = 0 if carrier is None else carrier.hop + 1
            return PutBack(wait_seconds=seconds + _RETRY_PATIENCE_SECONDS, hop=hop)
        task = self.task
        wants_it = bool(task.acks_late and task.reject_on_worker_lost)
        again = retries_loss(spec.policy, attempt=session.attempt or 1, task_wants_it=wants_it)
        patience = _RETRY_PATIENCE_SECONDS if again else _visibility_seconds(task.app)
        return PutBack(
            wait_seconds=seconds + patience,
            handed_on=carrier.message,
            hop=carrier.hop + 1,
            queue=self._went_to(carrier),
            retry_seconds=seconds,
            starts_again=again,
        )

    def _rejected(self, error: Reject) -> Outcome:
        """Return the outcome of a rejected message; raise PutBack if the message comes again.

        Celery may put the message back on its queue. If a retry could not be published, the leader
        pushes it, like a lost one.
        """
        if self.carrier is not None and self.carrier.is_retry_lost:
            raise PutBack(wait_seconds=_RETRY_PATIENCE_SECONDS, hop=self.carrier.hop + 1) from None
        if error.requeue and self.task.acks_late and self.carrier is not None:
            raise PutBack(
                wait_seconds=PATIENCE_SECONDS,
                handed_on=self.carrier.message,
                hop=self.carrier.hop,
            ) from None
        why = "" if error.reason is None else f": {error.reason}"
        text = f"its task rejected the message{why}".encode(errors="replace")
        return Outcome(state=RunState.FAILED, error=self._redact(text).decode(errors="replace"))

    def _escaped(self, error: BaseException, stop: RunningRun) -> Outcome:
        """Return the outcome of an error that is no Exception.

        Raises the error again if Celery must end the run.
        """
        state = state_after(
            error,
            message_id=str(self.task.request.id),
            worker=self._worker,
            is_stopped=stop.is_set(),
        )
        if state is None or self._is_hard_limit(error):
            raise error
        # Raised as it is, the error would end the pool's process, thread or loop instead of failing
        # the task.
        self.error = RunFailed(error_text(error))
        self.error.__cause__ = error.with_traceback(_from_user_code(error.__traceback__))
        return self._outcome_of(error, state)

    def _is_hard_limit(self, error: BaseException) -> bool:
        # Compared with the limit, because a task may set timers of its own.
        limit = self._time_limit
        return limit is not None and is_green_timeout(error) and error.seconds == limit  # type: ignore[attr-defined]

    def _failed(self, error: Exception, stop: RunningRun) -> Outcome:
        state = RunState.FAILED
        if isinstance(error, SoftTimeLimitExceeded):
            state = RunState.CANCELLED if stop.is_set() else RunState.TIMED_OUT
        return self._outcome_of(error, state)

    def _outcome_of(self, error: BaseException, state: RunState) -> Outcome:
        text = error_text(error).encode(errors="replace")
        trace = "".join(traceback.format_exception(error)).encode(errors="replace")
        is_asked = state is RunState.CANCELLED
        return Outcome(
            state=state,
            error=None if is_asked else self._redact(text).decode(errors="replace"),
            stderr=self._redact(trace),
        )


def _from_user_code(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that begins in the user's own code."""
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next
    return trace


def _shown(value: Any) -> bytes:
    """Return a task's return value as output: text as it is, b"" for None, the rest as JSON."""
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
        return max((aware - datetime.now(UTC)).total_seconds(), 0.0)
    return float(when or 0)


def _visibility_seconds(app: Celery) -> float:
    """Return the seconds after which a dead worker's message must be back."""
    options = app.conf.broker_transport_options or {}
    try:
        seconds = float(options.get("visibility_timeout") or _VISIBILITY_SECONDS)
    except (TypeError, ValueError):
        seconds = _VISIBILITY_SECONDS
    return seconds + _VISIBILITY_GRACE_SECONDS
