"""One run, as a pipeline of small steps: claim, session, work, finish.

A message is only a hint that a run may be waiting: the claim decides. So a message that comes
twice, late, or after its run was cancelled ends here without a trace.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from hermes_celery.errors import HermesCeleryError, SessionError, StoreError
from hermes_celery.job import JobSpec
from hermes_celery.log import Seldom, event
from hermes_celery.policy import retries_failure, retry_wait_ms
from hermes_celery.pulse import Pulse, RunningRun
from hermes_celery.run import Outcome, RunState
from hermes_celery.session import Session, bound
from hermes_celery.store import Claim, Runs

if TYPE_CHECKING:
    from hermes_celery.clock import Clock

_log = logging.getLogger(__name__)

#: How long the result of a finished run is offered to a Redis that does not answer.
_FINISH_PATIENCE_SECONDS = 300.0
_FINISH_RETRY_SECONDS = 1.0


class Work(Protocol):
    """One kind of work, such as `runners.script.ScriptRunner`."""

    def perform(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        """Do it, and say how it went."""


class Runner:
    """Performs runs in one worker process."""

    def __init__(
        self,
        runs: Runs,
        *,
        pulse: Pulse,
        work_for: Callable[[JobSpec], Work],
        clock: Clock,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._runs = runs
        self._pulse = pulse
        self._work_for = work_for
        self._clock = clock
        self._pause = pause

    def perform(self, run_id: str, *, session: Session | SessionError, worker: str) -> str:
        """Perform one run and return its final state, or why it was not ours to perform.

        A session that could not be read fails the run with that error. Raises StoreUnavailable
        when Redis cannot even be asked for the claim; then nothing has happened.
        """
        claim = self._runs.claim(
            run_id, token=secrets.token_hex(8), now_ms=self._clock.now_ms(), worker=worker
        )
        if isinstance(claim, str):
            event(_log, "run.not_claimed", run=run_id, reason=claim)
            return claim
        event(_log, "run.started", run=run_id, job=claim.spec.name, attempt=claim.attempt)
        with self._pulse.beating(claim) as running:
            outcome = self._outcome(claim, session, running)
            state = self._finish(claim, outcome)
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

    def _outcome(
        self, claim: Claim, session: Session | SessionError, running: RunningRun
    ) -> Outcome:
        try:
            with _entered(session) as current:
                return self._work_for(claim.spec).perform(claim.spec, current, running)
        except HermesCeleryError as error:
            return Outcome(state=RunState.FAILED, error=str(error))
        except Exception as error:  # noqa: BLE001 - one bad run must not stop the worker
            _log.exception("run.crashed run=%s", claim.run_id)
            return Outcome(state=RunState.FAILED, error=f"{type(error).__name__}: {error}")

    def _finish(self, claim: Claim, outcome: Outcome) -> str:
        """Record the outcome, and keep trying while Redis is away or full: work is not repeated."""
        deadline = self._clock.monotonic() + _FINISH_PATIENCE_SECONDS
        complaint = Seldom()
        while True:
            try:
                return self._finish_once(claim, outcome)
            except StoreError as error:
                if self._clock.monotonic() > deadline:
                    raise
                if complaint.may_say(self._clock.monotonic()):
                    event(
                        _log, "run.finish_waits", level=logging.WARNING, run=claim.run_id, why=error
                    )
                self._pause(_FINISH_RETRY_SECONDS)

    def _finish_once(self, claim: Claim, outcome: Outcome) -> str:
        now_ms = self._clock.now_ms()
        retry_at_ms = None
        if _may_retry(claim, outcome):
            wait = retry_wait_ms(claim.spec.policy, attempt=claim.attempt, jitter=random.random())
            retry_at_ms = now_ms + wait
        answer = self._runs.finish(claim, outcome, now_ms=now_ms, retry_at_ms=retry_at_ms)
        return outcome.state.value if answer == "ok" else answer


def _may_retry(claim: Claim, outcome: Outcome) -> bool:
    failed = outcome.state in (RunState.FAILED, RunState.TIMED_OUT)
    return failed and retries_failure(claim.spec.policy, attempt=claim.attempt)


def _entered(session: Session | SessionError) -> AbstractContextManager[Session]:
    if isinstance(session, SessionError):
        raise session
    return bound(session)
