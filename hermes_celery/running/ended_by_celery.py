"""What becomes of a run whose message Celery dealt with by itself, without calling our code.

    expired                     the run is `skipped`
    revoked, purged             `cancelled`; what runs is asked to end, if it is terminated
    refused, failed before the body, thrown away   `failed`, with what Celery said
    hard time limit             `timed_out`, or its next attempt
    its process died            `lost`, or its next attempt

Decided by the state that the run is in when it is told: a run that somebody performs meanwhile is
never touched, except by the end of the very process that performed it. Deliveries have ends of the
same kinds. Everything is written in the background, so that the worker's main loop waits for
nothing; only what Celery is about to put back on its queue is written at once, before it can be
taken again.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from hermes_celery.core.policy import Policy, retries_failure, retries_loss, retry_wait_ms
from hermes_celery.core.run import RunState
from hermes_celery.errors import RunNotFound
from hermes_celery.events import event
from hermes_celery.store import EarlyEnd

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.running.background_writes import BackgroundWrites
    from hermes_celery.store import Runs

_log = logging.getLogger(__name__)

EXPIRED = "expired: its message was older than its `expires` when a worker took it"
NOT_CALLED = "its task returned without calling its body"
REVOKED = "revoked"
PURGED = "purged"
#: A run that a task hands on is still running for a moment when what it was handed on to fails.
_HANDED_ON_TRIES, _HANDED_ON_PAUSE_SECONDS = 25, 0.2


class RunMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that carries a run."""

    run_id: str
    #: The number of the attempt that it was pushed for.
    attempt: int = 1
    #: How often the run's own tasks have sent it on.
    hop: int = 0


class ProcessEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a pool process ended that had a run's message."""

    pid: int
    #: What its run comes to, unless it is tried again.
    state: RunState
    error: str


class EndsDeliveries(Protocol):
    """What ends deliveries, such as `delivering.deliverer.Deliverer`."""

    def give_up(self, delivery_id: str, why: str) -> None:
        """End a delivery, and tell of it."""


class RunEnder:
    """Ends runs and deliveries in one process. Never raises: its callers are Celery's own loops."""

    def __init__(
        self,
        runs: Runs,
        *,
        deliveries: Callable[[], EndsDeliveries],
        writes: BackgroundWrites,
        clock: Clock,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._runs = runs
        self._deliveries = deliveries
        self._writes = writes
        self._clock = clock
        self._pause = pause

    def drain(self, seconds: float) -> bool:
        """Wait until all is written, so long at most; whether it is."""
        return self._writes.drain(seconds)

    def expired(self, message: RunMessage) -> None:
        """Its message was too old."""
        self._end(message.run_id, state=RunState.SKIPPED, reason=EXPIRED, message=message)

    def not_called(self, message: RunMessage) -> None:
        """Its task returned, and nobody claimed it: a `__call__` of the project's own decided."""
        self._end(message.run_id, state=RunState.SKIPPED, reason=NOT_CALLED, message=message)

    def cancelled(self, run_id: str, *, reason: str) -> None:
        """Nobody is to run it; if it runs, it goes on."""
        self._end(run_id, state=RunState.CANCELLED, reason=reason)

    def terminated(self, run_id: str) -> None:
        """Nobody is to run it, and who runs it is killed just now."""

        def cancel() -> None:
            answer = self._runs.cancel(run_id, reason=REVOKED, now_ms=self._clock.now_ms())
            _tell(run_id, RunState.CANCELLED, REVOKED, answer)

        self._writes.later(f"the end of run {run_id}", _unless_gone(cancel))

    def failed(self, message: RunMessage, error: str) -> None:
        """It failed before anybody claimed it."""
        self._end(message.run_id, state=RunState.FAILED, error=error, message=message)

    def handed_on_failed(self, run_id: str, error: str) -> None:
        """What it was handed on to has failed, so that the message that ends it never comes."""

        def fail() -> None:
            for _ in range(_HANDED_ON_TRIES):
                answer = self._runs.end_waiting(
                    run_id,
                    EarlyEnd(state=RunState.FAILED, error=error),
                    now_ms=self._clock.now_ms(),
                )
                found = self._runs.performed(run_id) if answer == "over" else None
                if found is None or found.state.is_final:
                    _tell(run_id, RunState.FAILED, error, answer)
                    return
                self._pause(_HANDED_ON_PAUSE_SECONDS)

        self._writes.later(f"the end of run {run_id}", fail)

    def timed_out(self, message: RunMessage, *, pid: int, error: str) -> None:
        """Its process is killed for the time that it took."""

        def end() -> None:
            policy, attempt = self._policy(message.run_id)
            again = retries_failure(policy, attempt=attempt)
            self._give_up(
                message,
                ProcessEnd(pid=pid, state=RunState.TIMED_OUT, error=error),
                retry_at_ms=self._retry_at_ms(policy, attempt) if again else None,
            )

        self._writes.later(f"the end of run {message.run_id}", end)

    def lost(self, message: RunMessage, *, pid: int, error: str, task_wants_it: bool) -> None:
        """Its process is gone; `task_wants_it`: its task is to run again, as the project says."""

        def end() -> None:
            policy, attempt = self._policy(message.run_id)
            again = retries_loss(policy, attempt=attempt, task_wants_it=task_wants_it)
            self._give_up(
                message,
                ProcessEnd(pid=pid, state=RunState.LOST, error=error),
                retry_at_ms=self._retry_at_ms(policy, attempt) if again else None,
            )

        self._writes.later(f"the end of run {message.run_id}", end)

    def comes_again(
        self, message: RunMessage, *, pid: int, state: RunState, error: str, wait_seconds: float
    ) -> None:
        """Its process is gone, and Celery is about to put its message back, in so many seconds.

        Written at once, unless Redis cannot be reached: the message must not come before.
        """
        try:
            policy, attempt = self._policy(message.run_id)
            again = retries_loss(policy, attempt=attempt, task_wants_it=True)
            wait_ms = int((wait_seconds + _COMES_AGAIN_SECONDS) * 1000)
            self._give_up(
                message,
                ProcessEnd(pid=pid, state=state, error=error),
                retry_at_ms=self._clock.now_ms() + wait_ms if again else None,
                is_requeued=again,
            )
        except Exception as failure:  # noqa: BLE001 - who calls is Celery's own loop
            # Its heartbeat stops, and the leader sees to it.
            event(_log, "run.not_ended", level=logging.ERROR, run=message.run_id, why=failure)

    def delivery_ended(self, delivery_id: str, why: str) -> None:
        """Nobody performs the message of a delivery."""

        def end() -> None:
            self._deliveries().give_up(delivery_id, why)

        self._writes.later(f"the end of delivery {delivery_id}", end)

    def _retry_at_ms(self, policy: Policy, attempt: int) -> int:
        wait_ms = retry_wait_ms(policy, attempt=attempt, jitter=random.random())
        return self._clock.now_ms() + wait_ms

    def _policy(self, run_id: str) -> tuple[Policy, int]:
        spec, attempt = self._runs.spec_of(run_id)
        return (Policy() if spec is None else spec.policy), attempt

    def _give_up(
        self,
        message: RunMessage,
        process: ProcessEnd,
        *,
        retry_at_ms: int | None,
        is_requeued: bool = False,
    ) -> None:
        """End the run, or put it back in line for its next attempt.

        The message of that attempt is on the queue already where the run `is_requeued`.
        """
        now_ms, state, error = self._clock.now_ms(), process.state, process.error
        answer = self._runs.give_up(
            message.run_id,
            EarlyEnd(state=state, error=error),
            pid=process.pid,
            now_ms=now_ms,
            retry_at_ms=retry_at_ms,
            is_requeued=is_requeued,
        )
        if answer == "alive" and state is RunState.TIMED_OUT:
            # It was killed before it could claim its run.
            answer = self._runs.end_waiting(
                message.run_id,
                EarlyEnd(state=state, error=error, attempt=message.attempt, hop=message.hop),
                now_ms=now_ms,
            )
        _tell(message.run_id, state, error, answer)

    def _end(
        self,
        run_id: str,
        *,
        state: RunState,
        reason: str = "",
        error: str = "",
        message: RunMessage | None = None,
    ) -> None:
        def end() -> None:
            answer = self._runs.end_waiting(
                run_id,
                EarlyEnd(
                    state=state,
                    reason=reason,
                    error=error,
                    attempt=None if message is None else message.attempt,
                    hop=0 if message is None else message.hop,
                ),
                now_ms=self._clock.now_ms(),
            )
            _tell(run_id, state, error or reason, answer)

        self._writes.later(f"the end of run {run_id}", end)


#: When the leader pushes the message of a run whose own did not come back.
_COMES_AGAIN_SECONDS = 60.0


def _unless_gone(write: Callable[[], None]) -> Callable[[], None]:
    def do_it() -> None:
        try:
            write()
        except RunNotFound:
            return

    return do_it


def _tell(run_id: str, state: RunState, why: str, answer: str) -> None:
    if answer in ("over", "gone", "alive"):
        return
    level = logging.INFO if state in (RunState.SKIPPED, RunState.CANCELLED) else logging.WARNING
    event(_log, "run.ended", level=level, run=run_id, state=state, why=why, then=answer)
