"""Notices, in a worker's main process, each message that Celery ends without calling the task.

- Celery's signal `task_revoked` reports messages that are expired or revoked when a worker takes
  them, and tasks that are terminated.
- `Request.on_timeout` and `on_failure` are called for a hard time limit, for a dead process, and
  for a task that failed before our code was called. Each task of the app gets its own request class
  in front of the one that it has, so that a project's own class stays in use.
- Every worker that receives a revoke reports it at once, not when the message is taken: by then the
  run might have been pushed again.

Our header says what a message means for a run; `running.ended_by_celery` decides and writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import Celery, bootsteps, signals
from celery.app.trace import task_has_custom
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.imports import symbol_by_name
from celery.worker import state as worker_state
from celery.worker.consumer.control import Control

from hermes_celery.celery_app.continued_runs import hop_of, leads_to
from hermes_celery.celery_app.messages import DELIVER_TASK
from hermes_celery.core.run import RunState, is_run_id
from hermes_celery.errors import HermesCeleryError, error_text
from hermes_celery.running.ended_by_celery import REVOKED, RunEnder, RunMessage
from hermes_celery.running.escaped_exceptions import is_current_greenlet, terminating
from hermes_celery.session import HEADER, run_carried_by

if TYPE_CHECKING:
    # The class below is put in front of a class that is known only at run time.
    from typing import Any as _Above
else:
    _Above = object

_MARK = "_hermes_celery_watched"
_DELIVERY_ID = "deliver-"
_PUSH = re.compile(r"\.\d{1,15}$")
#: Errors raised by our own code, or by a task whose end our own code has already reported.
_REPORTED = (Ignore, Reject, Retry, HermesCeleryError)
_DIED = (WorkerLostError, SystemExit, KeyboardInterrupt)


def delivery_of(task_id: str) -> str | None:
    """Return the delivery whose message has this Celery id, or None."""
    if not task_id.startswith(_DELIVERY_ID):
        return None
    return _PUSH.sub("", task_id.removeprefix(_DELIVERY_ID))


def run_of(task_id: str) -> str | None:
    """Return the run of the message with this Celery id, or None if the id alone does not tell."""
    run_id = _PUSH.sub("", task_id)
    for found in (task_id, run_id):
        if is_run_id(found):
            return found
    return None


def install(app: Celery, run_ender: RunEnder) -> None:
    """Make this app's worker, and no other, notice ends; call it before the worker is made."""

    def on_revoked(sender: Any = None, request: Any = None, **given: Any) -> None:
        if getattr(sender, "app", None) is app and request is not None:
            _report_revoked(run_ender, request, given)

    signals.task_revoked.connect(on_revoked, weak=False)

    class RevokeListener(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery carries no types
        """Reports revokes when they arrive."""

        requires = (Control,)

        def start(self, consumer: Any) -> None:
            """Listen on Celery's own mailbox, which exists now."""
            for step in consumer.steps:
                if isinstance(step, Control):
                    _watch_revokes(step.box.node, run_ender)

    app.steps["consumer"].add(RevokeListener)


def watch_all(app: Celery, run_ender: RunEnder) -> None:
    """Give every task without one a request class that reports its end."""
    for task in app.tasks.values():
        if not hasattr(task, _MARK):
            setattr(task, _MARK, True)
            above = symbol_by_name(task.Request)
            fields = {"run_ender": run_ender, "may_skip_body": task_has_custom(task, "__call__")}
            task.Request = type("WatchedRequest", (_WatchedRequest, above), fields)


def _watch_revokes(node: Any, run_ender: RunEnder) -> None:
    handlers = node.handlers
    revoke = handlers.get("revoke")
    if revoke is None or getattr(revoke, _MARK, False):
        return

    def revoke_and_report(state: Any, task_id: Any = None, **given: Any) -> Any:
        try:
            return revoke(state, task_id, **given)
        finally:
            # Not every pool can terminate a task; a running run is asked to end in any case.
            for one in _ids(task_id):
                _report_revoked_id(run_ender, one, terminates=bool(given.get("terminate")))

    setattr(revoke_and_report, _MARK, True)
    # Celery's own table is shared by all apps of the process, so it is copied.
    node.handlers = {**handlers, "revoke": revoke_and_report}


def _ids(given: Any) -> Iterable[str]:
    many = given if isinstance(given, (list, tuple, set, frozenset)) else [given]
    return [one for one in many if isinstance(one, str)]


def _report_revoked_id(run_ender: RunEnder, task_id: str, *, terminates: bool) -> None:
    delivery_id, run_id = delivery_of(task_id), run_of(task_id)
    request = worker_state.requests.get(task_id)
    if run_id is not None and terminates and request in worker_state.active_requests:
        run_ender.terminated(run_id)
    elif delivery_id is not None:
        run_ender.delivery_ended(delivery_id, "its message was revoked")
    elif run_id is not None:
        run_ender.cancelled(run_id, reason=REVOKED)


def _report_revoked(run_ender: RunEnder, request: Any, given: Mapping[str, Any]) -> None:
    """Report a message that Celery discarded, or whose task it terminates."""
    header = (request.headers or {}).get(HEADER, getattr(request, HEADER, None))
    is_expired = bool(given.get("expired"))
    why = "expired" if is_expired else "revoked"
    if request.task == DELIVER_TASK:
        delivery_id = delivery_of(str(request.id))
        if delivery_id is not None and not given.get("terminated"):
            run_ender.delivery_ended(delivery_id, f"its message was {why}")
        return
    message = _message(header, str(request.id))
    if message is None:
        _report_child(run_ender, header, request, f"was {why}")
    elif given.get("terminated"):
        run_ender.terminated(message.run_id)
    elif is_expired:
        run_ender.expired(message)
    else:
        run_ender.cancelled(message.run_id, reason=REVOKED)


def _message(header: Any, task_id: str) -> RunMessage | None:
    run_id = run_carried_by(header, message_id=task_id)
    if run_id is None:
        return None
    attempt = header["session"].get("attempt")
    attempt = attempt if isinstance(attempt, int) else 1
    return RunMessage(run_id=run_id, attempt=attempt, hop=hop_of(header))


def _report_child(run_ender: RunEnder, header: Any, request: Any, what: str) -> None:
    """Report that a task ended without publishing the message that a run waits for.

    The task belongs to a chain or chord that took over the run.
    """
    if not isinstance(header, Mapping) or not isinstance(header.get("message"), str):
        return
    chain, chord = getattr(request, "chain", None), getattr(request, "chord", None)
    if leads_to(header["message"], chain=chain, chord=chord):
        run_id = run_carried_by(header, message_id=header["message"])
        if run_id is not None:
            error = f"its task handed it on, and the task {request.task} {what}"
            run_ender.handed_on_failed(run_id, error)


class _WatchedRequest(_Above):  # type: ignore[misc]  # Celery carries no types
    """A request class in front of a task's own, which reports ends."""

    run_ender: RunEnder
    #: Whether the task has a `__call__` of its own.
    may_skip_body = False

    def __init_subclass__(cls, **given: Any) -> None:
        """Wrap the `on_success` of the subclass that Celery makes; it calls no base class."""
        super().__init_subclass__(**given)
        if "on_success" in vars(cls):
            own = cls.on_success
            cls.on_success = _with_failures(
                _reporting_skipped_body(own) if cls.may_skip_body else own
            )

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """End the task because it was revoked with `terminate`."""
        with terminating(self.id):
            super().terminate(pool, signal)

    def cancel(self, pool: Any, signal: Any = None, **given: Any) -> None:
        """End the task because the worker stops; its message comes again."""
        with terminating(self.id, comes_again=True):
            super().cancel(pool, signal, **given)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Report a hard time limit; the task itself handles a soft one."""
        error = TimeLimitExceeded(timeout)
        if not soft and not self._comes_again(error):
            self._report(error)
        super().on_timeout(soft, timeout)

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> Any:
        """Report an error of the task or the death of its process."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        is_reported = self._comes_again(error)
        try:
            return super().on_failure(
                exc_info, send_failed_event=send_failed_event, return_ok=return_ok
            )
        finally:
            if not is_reported:
                self._report(error)

    def _header(self) -> Any:
        return self.request_dict.get(HEADER)

    def _comes_again(self, error: BaseException) -> bool:
        """Return whether Celery sends the message again; if so, record that before it does."""
        message = _message(self._header(), self.id)
        if message is None:
            return self._child_comes_again(error)
        wait_seconds = _wait_for_copy(self, error)
        if wait_seconds is None:
            return False
        self.run_ender.comes_again(
            message,
            pid=_pid(self),
            state=RunState.TIMED_OUT if isinstance(error, TimeLimitExceeded) else RunState.LOST,
            error=_text(error),
            wait_seconds=wait_seconds,
        )
        return True

    def _child_comes_again(self, error: BaseException) -> bool:
        """Return the same for a task that took over a run; record nothing, as nothing ended."""
        if isinstance(error, (*_DIED, Terminated)) and self._already_cancelled:
            # The connection was lost or the worker stops; the broker still has the message.
            return True
        if _is_requeued(self.task, error):
            return True
        return _wait_for_copy(self, error) is not None and not _has_no_retry_left(self, error)

    def _report(self, error: BaseException) -> None:
        header = self._header()
        message = _message(header, self.id)
        if message is None:
            if not isinstance(error, (Ignore, Retry)):
                _report_child(self.run_ender, header, self._context, f"failed: {_text(error)}")
            return
        pid, text = _pid(self), _text(error)
        if isinstance(error, TimeLimitExceeded):
            self.run_ender.timed_out(message, pid=pid, error=text)
        elif isinstance(error, (*_DIED, Terminated)):
            self.run_ender.lost(message, pid=pid, error=text, task_wants_it=_runs_again(self.task))
        elif not isinstance(error, _REPORTED) and not self.task.name.startswith("hermes_celery."):
            self.run_ender.failed(message, text)


def _with_failures(on_success: Callable[..., Any]) -> Callable[..., Any]:
    """Return `on_success` that treats a reported error that is not an Exception as a failure.

    A pool in the worker's own process reports such an error to `on_success`. Celery's own
    `on_success` would raise there, and Celery would take the message for an invalid one.
    """

    @wraps(on_success)
    def on_success_or_failure(self: Any, reported: Any, **given: Any) -> Any:
        if isinstance(reported, ExceptionInfo):
            return self.on_failure(reported)
        return on_success(self, reported, **given)

    return on_success_or_failure


def _reporting_skipped_body(on_success: Callable[..., Any]) -> Callable[..., Any]:
    """Report a task whose own `__call__` left out the body."""

    @wraps(on_success)
    def on_success_and_report(self: Any, failed__retval__runtime: Any, **given: Any) -> Any:
        answer = on_success(self, failed__retval__runtime, **given)
        message = _message(self.request_dict.get(HEADER), self.id)
        if message is not None and not failed__retval__runtime[0]:
            self.run_ender.not_called(message)
        return answer

    return on_success_and_report


def _pid(request: Any) -> int:
    """Return the process that performs the task.

    Under gevent Celery's value is the id of the greenlet, which is the caller here.
    """
    pid: int = request.worker_pid or 0
    return os.getpid() if is_current_greenlet(pid) else pid


def _runs_again(task: Any) -> bool:
    return bool(task.acks_late and task.reject_on_worker_lost)


def _is_requeued(task: Any, error: BaseException) -> bool:
    """Return whether the task's own body put the message back.

    A message that is acknowledged early is gone by then.
    """
    return bool(isinstance(error, Reject) and error.requeue and task.acks_late)


def _has_no_retry_left(request: Any, error: BaseException) -> bool:
    """Return whether Celery gives up the task of a dead process because its retries are used up."""
    task = request.task
    if not isinstance(error, _DIED) or not getattr(task, "retry_on_worker_lost", False):
        return False
    return task.max_retries is not None and request._context.retries >= task.max_retries


def _wait_for_copy(request: Any, error: BaseException) -> float | None:
    """Return the seconds until Celery sends the message again after that error, or None."""
    task = request.task
    if isinstance(error, TimeLimitExceeded):
        return 0.0 if task.acks_late and not task.acks_on_timeout else None
    if not isinstance(error, _DIED) or request._already_revoked or request._already_cancelled:
        return None
    if getattr(task, "retry_on_worker_lost", False):
        return float(task.default_retry_delay)
    return 0.0 if _runs_again(task) else None


def _text(error: BaseException) -> str:
    if isinstance(error, TimeLimitExceeded):
        # For the pool's own limit (--time-limit) Celery gives no seconds.
        seconds = error.args[0] if error.args else None
        limit = f" of {seconds:g} s" if isinstance(seconds, (int, float)) else ""
        return f"Celery's hard time limit{limit} was reached"
    if isinstance(error, SystemExit):
        return f"the worker's process ended: SystemExit {error.code}"
    if isinstance(error, _DIED):
        return f"the worker's process died: {error}"
    if isinstance(error, Terminated):
        return "the worker's process was terminated"
    return error_text(error)
