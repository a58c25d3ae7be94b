"""Perform one run as a pipeline of small steps: claim, session, work, finish.

A message only hints that a run may be waiting: the claim decides. So a message that comes twice,
late, or after its run was cancelled ends here without effect.

The work is done once, so its end is recorded even if something around it fails: listeners, budget
booking or repairs. Such a failure is logged, and the end is recorded without that part.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from hermes_celery.core.job import JobSpec
from hermes_celery.core.policy import retries_failure, retry_wait_ms
from hermes_celery.core.run import DeliveryState, Outcome, RunState, job_id_of
from hermes_celery.errors import (
    HermesCeleryError,
    PutBack,
    RecordBroken,
    SessionError,
    StoreError,
    StoreUnavailable,
    error_text,
)
from hermes_celery.events import RateLimitedLog, event
from hermes_celery.running.escaped_exceptions import is_green_timeout, state_after
from hermes_celery.running.heartbeat import STUCK_SECONDS, Heartbeats, RunningRun
from hermes_celery.running.taken_message import TakenMessage
from hermes_celery.session import Session, bound
from hermes_celery.store import Claim, FollowUp, HandedOn, LastPerformed, RunLimits, Runs

if TYPE_CHECKING:
    from hermes_celery.clock import Clock

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

#: Seconds to keep trying to record a finished run while Redis does not accept it.
_FINISH_PATIENCE_SECONDS = 300.0
_FINISH_RETRY_SECONDS = 1.0


class Performer(Protocol):
    """Performs one kind of work on this machine, such as `script.ScriptRunner`."""

    def perform(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        """Do the work and return the outcome."""


class HandlesStuckWork(Protocol):
    """Handles work that goes on although its run was stopped: `stuck_work`."""

    def can_end(self, worker: str) -> bool:
        """Return whether this process can be ended without ending other runs."""

    def end(self, claim: Claim) -> None:
        """End this process, and with it the work."""

    def tell(self, claim: Claim, worker: str) -> None:
        """Record an incident: the work goes on."""

    def over(self, claim: Claim, worker: str) -> None:
        """End the incident: the work has ended after all."""


class RunListener(Protocol):
    """Listens to the start and end of runs, such as `outbox.RunAnnouncer`."""

    def started(self, claim: Claim) -> None:
        """Called when a run has started."""

    def follow_up(self, claim: Claim, outcome: Outcome) -> FollowUp:
        """Return what to write in the same atomic step as the run's end, such as a delivery."""


class RunServices(msgspec.Struct, frozen=True, kw_only=True):
    """A runner's optional collaborators."""

    #: Concurrency groups and budgets.
    limits: RunLimits | None = None
    #: Called at a run's start and at its end.
    listener: RunListener | None = None
    #: Makes the handler of stopped work that does not end.
    stuck_work: Callable[[], HandlesStuckWork] | None = None
    #: Repairs a job's broken key, before the key is needed again.
    mend: Callable[[str, RecordBroken], None] = lambda job_id, error: None


class Runner:
    """Performs runs in one worker process."""

    def __init__(
        self,
        runs: Runs,
        *,
        heartbeats: Heartbeats,
        work_for: Callable[[JobSpec], Performer],
        clock: Clock,
        services: RunServices | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._runs = runs
        self._services = services or RunServices()
        self._heartbeats = heartbeats
        self._work_for = work_for
        self._clock = clock
        self._pause = pause
        #: Returns the runner of another namespace; it is tried for a run that is not in this one.
        self.elsewhere: Callable[[], Runner] | None = None

    def perform(
        self,
        run_id: str,
        *,
        message: TakenMessage,
        session: Session | SessionError,
        work: Performer | None = None,
        hear: Callable[[Outcome], None] = lambda outcome: None,
    ) -> str:
        """Perform one run; return its final state, or the reason why it was not performed here.

        A session that could not be read fails the run with that error. `work` replaces the
        performer of the job's kind; `hear` is called with the outcome. Raises StoreUnavailable when
        Redis cannot be asked for the claim; then nothing has happened.
        """
        # The token begins with the process id, so that the process's claims are known when it ends.
        token = f"{os.getpid()}-{secrets.token_hex(8)}"
        claim = self._with_repair(
            run_id,
            lambda: self._runs.claim(
                run_id,
                token=token,
                now_ms=self._clock.now_ms(),
                worker=message.worker,
                message=message.id,
                hop=message.hop,
            ),
        )
        if claim == "gone" and self.elsewhere is not None:
            return self._performed_elsewhere(run_id, message=message, session=session, work=work)
        if isinstance(claim, str):
            event(_log, "run.not_claimed", run=run_id, reason=claim)
            return claim
        limits = self._services.limits
        if limits is not None:
            answer = self._with_repair(
                run_id, lambda: limits.enter(claim, now_ms=self._clock.now_ms())
            )
            if answer != "ok":
                event(_log, "run.waits", run=run_id, group=claim.group, reason=answer)
                return answer
        event(_log, "run.started", run=run_id, job=claim.spec.name, attempt=claim.attempt)
        if self._services.listener is not None:
            with _beside(claim, "run.start_untold"):
                self._services.listener.started(claim)
        with self._heartbeats.sent_for(
            claim, on_stuck=lambda run: self._end_stuck(claim, message.worker, run)
        ) as running:
            try:
                outcome = self._outcome(claim, work or self._work_for(claim.spec), session, running)
            except PutBack as error:
                return self._put_back(claim, error)
            except BaseException as error:  # noqa: BLE001 - raised again where it is Celery's
                outcome = _escaped(error, message=message, running=running)
            finally:
                self._returned(claim, message.worker, running)
            with _beside(claim, "run.end_untold"):
                hear(outcome)
            with _beside(claim, "run.usage_lost"):
                self._book(claim, outcome)
            state = self._persistently(claim, lambda: self._finish(claim, outcome))
        self._leave(claim)
        event(
            _log,
            "run.finished",
            run=run_id,
            job=claim.spec.name,
            state=state,
            exit_code=outcome.exit_code,
            error=outcome.error,
        )
        return state

    def _performed_elsewhere(
        self,
        run_id: str,
        *,
        message: TakenMessage,
        session: Session | SessionError,
        work: Performer | None,
    ) -> str:
        assert self.elsewhere is not None
        try:
            return self.elsewhere().perform(run_id, message=message, session=session, work=work)
        except StoreUnavailable:
            raise
        except StoreError as error:
            # This Redis user may not read that namespace, so none of our runs can be there.
            event(_log, "run.not_claimed", run=run_id, reason="gone", why=error)
            return "gone"

    def look(self, run_id: str) -> LastPerformed | None:
        """Return which message of a run was performed last; None if there is no such run.

        Raises StoreError.
        """
        return self._runs.performed(run_id)

    def _outcome(
        self, claim: Claim, work: Performer, session: Session | SessionError, running: RunningRun
    ) -> Outcome:
        try:
            with _entered(session, attempt=claim.attempt) as current:
                return work.perform(claim.spec, current, running)
        except PutBack:
            raise
        except HermesCeleryError as error:
            return Outcome(state=RunState.FAILED, error=str(error))
        except Exception as error:  # noqa: BLE001 - one bad run must not stop the worker
            event(_log, "run.crashed", level=logging.ERROR, exc_info=error, run=claim.run_id)
            return Outcome(state=RunState.FAILED, error=error_text(error))

    def _end_stuck(self, claim: Claim, worker: str, running: RunningRun) -> None:
        """Handle work that goes on after its run was stopped. The heartbeat's thread calls this."""
        event(_log, "run.stuck", level=logging.WARNING, run=claim.run_id, job=claim.spec.name)
        if self._services.stuck_work is None:
            return
        stuck_work = self._services.stuck_work()
        if not stuck_work.can_end(worker):
            stuck_work.tell(claim, worker)
            if running.is_back:
                # The work may have returned before the incident was recorded: end it now.
                stuck_work.over(claim, worker)
            return
        text = f"it went on for {STUCK_SECONDS:g} s after it was stopped, so its process was killed"
        # Changes nothing if the claim is lost. If it fails, rescue ends the run as `lost` soon.
        with _beside(claim, "run.end_lost"):
            self._finish(claim, Outcome(state=RunState.CANCELLED, stderr=text.encode()))
        # The work may have returned meanwhile, and the process may work on another run.
        running.unless_back(lambda: stuck_work.end(claim))

    def _returned(self, claim: Claim, worker: str, running: RunningRun) -> None:
        running.returned()
        if running.is_stuck and self._services.stuck_work is not None:
            with _beside(claim, "run.stuck_untold"):
                self._services.stuck_work().over(claim, worker)

    def _put_back(self, claim: Claim, error: PutBack) -> str:
        """Release the claim and queue the run again."""
        now_ms, retry = self._clock.now_ms(), error.retry_seconds
        ready_at_ms = now_ms + int(error.wait_seconds * 1000)
        retry_at_ms = None if retry is None else now_ms + int(retry * 1000)
        answer = self._persistently(
            claim,
            lambda: self._runs.put_back(
                claim,
                ready_at_ms=ready_at_ms,
                handed_on=HandedOn(
                    message=error.handed_on,
                    hop=error.hop,
                    queue=error.queue,
                    retry_at_ms=retry_at_ms,
                    starts_again=error.starts_again,
                ),
            ),
        )
        self._leave(claim)
        name = "run.handed_on" if error.handed_on else "run.waits"
        event(_log, name, run=claim.run_id, seconds=error.wait_seconds, reason=answer)
        return answer

    def _book(self, claim: Claim, outcome: Outcome) -> None:
        """Book the run's usage before the run is finished, so that a crash cannot lose it."""
        usage, limits = outcome.usage, self._services.limits
        if usage is None or limits is None:
            return

        def book() -> str:
            return limits.spend(claim, usage, now_ms=self._clock.now_ms())

        if self._persistently(claim, book) == "paused":
            event(_log, "job.budget_spent", level=logging.WARNING, job=claim.spec.name)

    def _leave(self, claim: Claim) -> None:
        # If this fails, the place in the group expires with the heartbeat.
        if self._services.limits is not None:
            with _beside(claim, "run.place_kept"):
                self._services.limits.leave(claim)

    def _persistently(self, claim: Claim, write: Callable[[], str]) -> str:
        """Write, and keep trying while Redis is unreachable or full: the work is not repeated."""
        deadline = self._clock.monotonic() + _FINISH_PATIENCE_SECONDS
        complaint = RateLimitedLog()
        while True:
            try:
                return write()
            except StoreError as error:
                if self._clock.monotonic() > deadline:
                    raise
                if isinstance(error, RecordBroken):
                    with _beside(claim, "run.not_mended"):
                        self._services.mend(job_id_of(claim.run_id), error)
                if complaint.may_say(self._clock.monotonic()):
                    event(
                        _log, "run.finish_waits", level=logging.WARNING, run=claim.run_id, why=error
                    )
                self._pause(_FINISH_RETRY_SECONDS)

    def _with_repair(self, run_id: str, ask: Callable[[], _T]) -> _T:
        """Call `ask`; if a record is broken, repair it and call `ask` once more."""
        try:
            return ask()
        except RecordBroken as error:
            self._services.mend(job_id_of(run_id), error)
            return ask()

    def _finish(self, claim: Claim, outcome: Outcome) -> str:
        try:
            return self._finished(claim, outcome)
        except StoreError:
            raise  # `_persistently` tries again
        except Exception as error:  # noqa: BLE001 - the end is recorded without what failed
            _log_failure(claim, "run.end_failed", error)
            return self._finished(claim, _bare(outcome, error), may_retry=False)

    def _finished(self, claim: Claim, outcome: Outcome, *, may_retry: bool = True) -> str:
        now_ms = self._clock.now_ms()
        retry_at_ms = None
        if may_retry and _may_retry(claim, outcome):
            wait = retry_wait_ms(claim.spec.policy, attempt=claim.attempt, jitter=random.random())
            retry_at_ms = now_ms + wait
        answer = self._runs.finish(
            claim,
            outcome,
            now_ms=now_ms,
            retry_at_ms=retry_at_ms,
            follow_up=self._follow_up(claim, outcome),
        )
        return outcome.state.value if answer == "ok" else answer

    def _follow_up(self, claim: Claim, outcome: Outcome) -> FollowUp | None:
        """Return what to write with the run's end.

        If the listener fails, the delivery is recorded without a message; the leader pushes one.
        """
        listener = self._services.listener
        if listener is None:
            return None
        with _beside(claim, "run.delivery_not_begun"):
            return listener.follow_up(claim, outcome)
        is_told = outcome.state is not RunState.CANCELLED and not outcome.silent
        state = DeliveryState.PENDING if is_told else DeliveryState.NONE
        return FollowUp(delivery=state, queue=claim.queue, is_needed=is_told)


@contextmanager
def _beside(claim: Claim, name: str) -> Iterator[None]:
    """Log an error as the event `name` and go on, so that the run's end is recorded."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - no error here may prevent the run's end
        _log_failure(claim, name, error)


def _log_failure(claim: Claim, name: str, error: Exception) -> None:
    is_foreseen = isinstance(error, StoreError)
    event(
        _log,
        name,
        level=logging.WARNING if is_foreseen else logging.ERROR,
        exc_info=None if is_foreseen else error,
        run=claim.run_id,
        job=claim.spec.name,
        why=error_text(error),
    )


def _bare(outcome: Outcome, error: Exception) -> Outcome:
    """Return the outcome in a form that can always be written.

    `error` is what prevented the full form; it is added to the outcome's error.
    """
    said = f"{outcome.error or ''} (recording its end: {error_text(error)})"
    plain = said.strip().encode("utf-8", "backslashreplace").decode()
    return msgspec.structs.replace(outcome, error=plain, reason=None)


def _escaped(error: BaseException, *, message: TakenMessage, running: RunningRun) -> Outcome:
    """Return the outcome of work that raised a BaseException.

    Raises `error` again if it is for Celery to end the run.
    """
    state = state_after(
        error, message_id=message.id, worker=message.worker, is_stopped=running.is_set()
    )
    if state is None or is_green_timeout(error):
        raise error
    return Outcome(state=state, error=error_text(error))


def _may_retry(claim: Claim, outcome: Outcome) -> bool:
    failed = outcome.state in (RunState.FAILED, RunState.TIMED_OUT)
    return failed and retries_failure(claim.spec.policy, attempt=claim.attempt)


def _entered(session: Session | SessionError, *, attempt: int) -> AbstractContextManager[Session]:
    """Enter the session, with the attempt that the claim counts.

    A message that came back carries an older attempt.
    """
    if isinstance(session, SessionError):
        raise session
    if session.run_id and session.attempt != attempt:
        session = msgspec.structs.replace(session, attempt=attempt)
    return bound(session)
