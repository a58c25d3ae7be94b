"""End runs whose message Celery handled itself, without calling our code.

    expired                                       `skipped`
    revoked, purged                               `cancelled`; a running run is asked to stop if
                                                  the revoke terminates it
    rejected, failed before the body, discarded   `failed`, with Celery's reason
    hard time limit                               `timed_out`, or its next attempt
    its process died                              `lost`, or its next attempt

The run's current state decides. A run that another process performs meanwhile is never touched;
only the end of the process that performed it ends it. Deliveries end in the same ways. Everything
is written in the background, so that the worker's main loop never waits. The exception is a message
that Celery is about to put back on its queue: its run is written at once, before the message can be
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
from hermes_celery.core.run import EndReason, RunState
from hermes_celery.errors import RunNotFound
from hermes_celery.events import event
from hermes_celery.store import EarlyEnd

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.running.background_writes import BackgroundWrites
    from hermes_celery.store import Runs

_log = logging.getLogger(__name__)

EXPIRED = f"{EndReason.EXPIRED}: its message was older than its `expires` when a worker took it"
NOT_CALLED = "its task returned without calling its body"
REVOKED = EndReason.REVOKED.value
PURGED = EndReason.PURGED.value
#: Tries to end a run that was handed on: it may still be running for a moment when the message that
#: it was handed on to fails.
_HANDED_ON_TRIES, _HANDED_ON_PAUSE_SECONDS = 25, 0.2


class RunMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that carries a run."""

    run_id: str
    #: The number of the attempt that the message was pushed for.
    attempt: int = 1
    #: How often the run's own tasks have handed it on.
    hop: int = 0


class ProcessEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a pool process that had a run's message."""

    pid: int
    #: The final state of the run, unless it is retried.
    state: RunState
    error: str


class EndsDeliveries(Protocol):
    """Ends deliveries, such as `delivering.deliverer.Deliverer`."""

    def give_up(self, delivery_id: str, why: str) -> None:
        """End a delivery, and record an incident."""


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
        """Wait up to `seconds` for all writes; return whether all were done."""
        return self._writes.drain(seconds)

    def expired(self, message: RunMessage) -> None:
        """End a run whose message was too old."""
        self._end(message.run_id, state=RunState.SKIPPED, reason=EXPIRED, message=message)

    def not_called(self, message: RunMessage) -> None:
        """End a run whose task returned without claiming it.

        The project's own `__call__` returned without calling the task's body.
        """
        self._end(message.run_id, state=RunState.SKIPPED, reason=NOT_CALLED, message=message)

    def cancelled(self, run_id: str, *, reason: str) -> None:
        """Cancel a run that no worker performs yet; a running run goes on."""
        self._end(run_id, state=RunState.CANCELLED, reason=reason)

    def terminated(self, run_id: str) -> None:
        """Cancel a run whose process, if it has one, is being killed now."""

        def cancel() -> None:
            answer = self._runs.cancel(run_id, reason=REVOKED, now_ms=self._clock.now_ms())
            _log_end(run_id, RunState.CANCELLED, REVOKED, answer)

        self._writes.later(f"the end of run {run_id}", _unless_gone(cancel))

    def failed(self, message: RunMessage, error: str) -> None:
        """End a run that failed before it was claimed."""
        self._end(message.run_id, state=RunState.FAILED, error=error, message=message)

    def handed_on_failed(self, run_id: str, error: str) -> None:
        """End a run because the task that it was handed on to has failed.

        The message that would end the run never comes.
        """

        def fail() -> None:
            for _ in range(_HANDED_ON_TRIES):
                answer = self._runs.end_waiting(
                    run_id,
                    EarlyEnd(state=RunState.FAILED, error=error),
                    now_ms=self._clock.now_ms(),
                )
                found = self._runs.performed(run_id) if answer == "over" else None
                if found is None or found.state.is_final:
                    _log_end(run_id, RunState.FAILED, error, answer)
                    return
                self._pause(_HANDED_ON_PAUSE_SECONDS)

        self._writes.later(f"the end of run {run_id}", fail)

    def timed_out(self, message: RunMessage, *, pid: int, error: str) -> None:
        """End or retry a run whose process is being killed for exceeding its time limit."""

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
        """End or retry a run whose process is gone.

        `task_wants_it`: the project wants the task to run again when its worker is lost.
        """

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
        """End or retry a run whose process is gone and whose message Celery puts back.

        Celery does so after `wait_seconds`. The run is written at once, because the message must
        not be taken before. If Redis is unreachable, it is logged.
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
        except Exception as failure:  # noqa: BLE001 - the caller is Celery's own loop
            # Its heartbeat stops, so the leader's rescue ends or retries it.
            event(_log, "run.not_ended", level=logging.ERROR, run=message.run_id, why=failure)

    def delivery_ended(self, delivery_id: str, why: str) -> None:
        """End a delivery whose message no worker performs."""

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
        """End the run, or queue it for its next attempt.

        With `is_requeued` the message of that attempt is on the queue already.
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
            # The process was killed before it could claim its run.
            answer = self._runs.end_waiting(
                message.run_id,
                EarlyEnd(state=state, error=error, attempt=message.attempt, hop=message.hop),
                now_ms=now_ms,
            )
        _log_end(message.run_id, state, error, answer)

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
            _log_end(run_id, state, error or reason, answer)

        self._writes.later(f"the end of run {run_id}", end)


#: The leader pushes a run's message this long after Celery should have put it back.
_COMES_AGAIN_SECONDS = 60.0


def _unless_gone(write: Callable[[], None]) -> Callable[[], None]:
    def do_it() -> None:
        try:
            write()
        except RunNotFound:
            return

    return do_it


def _log_end(run_id: str, state: RunState, why: str, answer: str) -> None:
    if answer in ("over", "gone", "alive"):
        return
    level = logging.INFO if state in (RunState.SKIPPED, RunState.CANCELLED) else logging.WARNING
    event(_log, "run.ended", level=level, run=run_id, state=state, why=why, then=answer)
