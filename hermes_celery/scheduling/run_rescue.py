"""Rescue lost runs: push queued runs again, and end or retry runs whose heartbeat stopped.

A message can vanish: a worker dies with it in hand, or a failover forgets it. So a run that stays
queued is pushed again, each time after twice the wait. The claim makes a second copy harmless. A
worker can vanish: a run whose heartbeat stopped becomes `lost`, which frees its job, or is queued
for its next attempt if the job has `on_lost: retry`. Waits between attempts are deadlines of the
same kind, so a retry is a run that is pushed later.

If a queue has consumers that do not report (`foreign_workers`), a message that left the queue may
have been executed. It is not pushed again, and its run ends as sent.

Only the leader rescues, with its fencing token, and only some seconds after it took over. Workers
that lost Redis together with it first have time to send a heartbeat.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from hermes_celery.core.built_message import BuildOutcome, BuiltMessage
from hermes_celery.core.policy import Policy, retries_loss, retry_wait_ms
from hermes_celery.core.run import Run, RunState, is_run_id, job_id_of
from hermes_celery.errors import (
    LeaseLost,
    RecordBroken,
    StoreError,
    StoreForbidden,
    StoreUnavailable,
    error_text,
)
from hermes_celery.events import event
from hermes_celery.guards.on_broken import OnBroken, ignored
from hermes_celery.instant import to_ms
from hermes_celery.scheduling.deferred_messages import (
    BUILDING_SECONDS,
    built_or_fault,
    ending_of,
    log_ended,
)
from hermes_celery.store import Actor, EarlyEnd, Fate, Push

if TYPE_CHECKING:
    from hermes_celery.core.job import JobSpec
    from hermes_celery.scheduling.foreign_workers import ForeignWorkers
    from hermes_celery.scheduling.planned_runs import BuildsMessages
    from hermes_celery.store import Jobs, Runs, UndeliveredRun

_log = logging.getLogger(__name__)
#: Runs of each kind per pass; each takes a tenth of a millisecond from dispatching.
_BATCH = 50
#: Runs that become overdue within a day are checked for whether a foreign worker took the message.
_AHEAD_MS = 86_400_000
#: A pushed message may take this long to reach a worker: Celery's Redis transport restores a
#: message that was not acknowledged for an hour.
_PATIENCE_MS = 3_700_000
LOST = "the worker died or was cut off: its heartbeat stopped"
NEVER_CAME = (
    "its task handed it on (self.replace, or a message with its own id), and the message that ends "
    "it never came"
)
RETRY_NEVER_CAME = (
    "the worker that had the message of its retry (self.retry) is gone, and the broker did not "
    "redeliver the message within its visibility timeout; a job with on_lost: retry starts the run "
    "again"
)


class RescueReport(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of what one pass did."""

    redelivered: int = 0
    lost: int = 0
    #: The ids of lost runs that are not retried.
    given_up: tuple[str, ...] = ()
    #: Runs that ended as sent: foreign workers took their messages.
    sent: int = 0
    #: Whether the pass ended before the last run, because building messages took too long.
    is_cut: bool = False

    @property
    def has_more(self) -> bool:
        """True if another pass at once may find more runs."""
        return self.is_cut or max(self.redelivered, self.lost) >= _BATCH


@dataclass(frozen=True, slots=True)
class Rescuer:
    """Rescues lost runs, one pass at a time."""

    jobs: Jobs
    runs: Runs
    messages: BuildsMessages
    #: Called for each run that cannot be rescued; the others are still rescued.
    on_broken: OnBroken = ignored
    #: Knows the queues with workers that do not report; None: all workers report.
    foreign: ForeignWorkers | None = None
    monotonic: Callable[[], float] = time.monotonic

    def rescue(self, *, token: int, now_ms: int) -> RescueReport:
        """Do one pass over overdue runs, up to 50 of each kind.

        Raises LeaseLost when a newer leader has taken over, and StoreError when Redis fails.
        """
        passed = _RescuePass(self, token=token, now_ms=now_ms)
        sent, redelivered, lost = passed.end_taken(), passed.redeliver(), passed.give_up_silent()
        return RescueReport(
            redelivered=redelivered,
            lost=lost,
            given_up=tuple(passed.given_up),
            sent=sent,
            is_cut=passed.is_cut,
        )


class _RescuePass:
    """The state of one pass."""

    def __init__(self, rescuer: Rescuer, *, token: int, now_ms: int) -> None:
        self._monotonic = rescuer.monotonic
        self._foreign = rescuer.foreign
        self._jobs = rescuer.jobs
        self._runs = rescuer.runs
        self._messages = rescuer.messages
        self._on_broken = rescuer.on_broken
        self._token = token
        self._now_ms = now_ms
        self._actor = Actor(now_ms=now_ms, token=token)
        self.given_up: list[str] = []
        self.is_cut = False

    def end_taken(self) -> int:
        """End runs whose messages foreign workers took; return how many.

        Otherwise they would block later runs of their jobs until they are overdue.
        """
        if self._foreign is None or not self._foreign.has_any:
            return 0
        waiting = self._runs.undelivered_since(self._now_ms + _AHEAD_MS, limit=_BATCH)
        specs = self._specs(waiting)
        queues = self._runs.queues_of([one.run.id for one in waiting])
        ended = 0
        for one, queue in zip(waiting, queues, strict=True):
            spec = specs.get(one.run.job_id)
            why = self._foreign.only_foreign(queue) if spec and spec.task else ""
            if why:
                end = partial(self._end_one, one, queue, why)
                ended += self._guarded(one.run.id, end)
        return ended

    def _end_one(self, overdue: UndeliveredRun, queue: str, why: str) -> bool:
        return self._runs.end_sent(overdue, queue=queue, why=why, actor=self._actor)

    def _specs(self, found: Sequence[UndeliveredRun]) -> dict[str, JobSpec]:
        def tell(job_id: str, error: RecordBroken) -> None:
            self._on_broken(job_id, error.key, error.what)

        return self._jobs.specs({one.run.job_id for one in found}, on_broken=tell)

    def redeliver(self) -> int:
        """Push runs again that no worker claimed in time; return how many."""
        overdue = self._runs.undelivered_since(self._now_ms, limit=_BATCH)
        specs = self._specs(overdue)
        pushed, began = 0, self._monotonic()
        for one in overdue:
            work = partial(self._redeliver_one, one, specs.get(one.run.job_id))
            pushed += self._guarded(one.run.id, work)
            if self._monotonic() - began > BUILDING_SECONDS:
                # The project's own code is slow, and the lease must be renewed.
                self.is_cut = one is not overdue[-1]
                break
        return pushed

    def give_up_silent(self) -> int:
        """End or retry runs whose heartbeat stopped; return how many."""
        silent = self._runs.silent_since(self._now_ms, limit=_BATCH)
        return sum(self._guarded(run_id, partial(self._lose, run_id)) for run_id in silent)

    def _guarded(self, run_id: str, work: Callable[[], bool]) -> bool:
        """Return what `work` returns; report a fault of this run, so that it stops no other run."""
        try:
            return work()
        except (LeaseLost, StoreUnavailable):
            raise
        except RecordBroken as error:
            self._on_broken(_job_of(run_id), error.key, error.what)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - one bad record must not stop the others
            what = f"cannot be rescued ({error_text(error)})"
            self._on_broken(_job_of(run_id), f"run {run_id!r}", what)
        return False

    def _redeliver_one(self, overdue: UndeliveredRun, spec: JobSpec | None) -> bool:
        run = overdue.run
        if run.fault is not None:
            self._on_broken(_job_of(run.id), f"run {run.id!r}", f"cannot be read: {run.fault}")
        if spec is None:
            why = "its job was removed, or is unreadable"
            self._runs.cancel(run.id, reason=why, now_ms=self._now_ms, token=self._token)
            return False
        if run.handed_on and self._is_awaited(overdue):
            return False
        if run.handed_on and not overdue.is_unpushed:
            self._end_handed_on(run)
            return False
        if run.expires_at is not None and to_ms(run.expires_at) < self._now_ms:
            self._runs.expire(run.id, now_ms=self._now_ms, token=self._token)
            return False
        return self._push(overdue, spec)

    def _is_awaited(self, overdue: UndeliveredRun) -> bool:
        """Return whether an overdue run's message may still reach a worker, and put such a run off.

        The message may be on its queue because no worker is there. A worker may also have taken it
        since it was last seen there.
        """
        now_ms = self._now_ms
        if self._is_on_queue(overdue):
            return True
        # `abs`: an instant far in the future is not one at which the queue was checked.
        if abs(now_ms - overdue.on_queue_ms) < overdue.patience_ms:
            self._runs.put_off(overdue, now_ms=now_ms)
            return True
        return False

    def _is_on_queue(self, overdue: UndeliveredRun) -> bool:
        run, queue = overdue.run, overdue.handed_queue
        if not queue:
            (queue,) = self._runs.queues_of([run.id])
        try:
            return self._runs.is_on_queue(overdue, queue=queue, actor=self._actor)
        except RecordBroken as error:
            if error.key != queue:
                raise
            return self._cannot_look(run, error)
        except StoreForbidden as error:
            return self._cannot_look(run, error)

    def _cannot_look(self, run: Run, error: StoreError) -> bool:
        """Report that a run's message cannot be looked for, and stop waiting for it.

        The queue's key is not a list, or the leader may not read it. Any other refusal (out of
        memory, a full disk) says nothing about the message, and is raised.
        """
        what = f"its message cannot be looked for ({error})"
        self._on_broken(_job_of(run.id), f"run {run.id!r}", what)
        return False

    def _end_handed_on(self, run: Run) -> None:
        """End a run as lost: the one message that it was handed on with did not come."""
        why = NEVER_CAME if run.retry_at is None else RETRY_NEVER_CAME
        end = EarlyEnd(state=RunState.LOST, error=why)
        self._runs.end_waiting(run.id, end, now_ms=self._now_ms, token=self._token)
        event(_log, "run.lost", level=logging.WARNING, run=run.id, why=why)

    def _push(self, overdue: UndeliveredRun, spec: JobSpec) -> bool:
        run = overdue.run
        built, fate = self._built(overdue, spec)
        if built.way is BuildOutcome.PENDING:
            return False
        if built.way in (BuildOutcome.FAILED, BuildOutcome.NOWHERE):
            self._end(overdue, built)
            return False
        push = Push(queue=built.queue, message=built.message, number=overdue.push)
        answer = self._runs.redeliver(overdue, push, actor=self._actor, fate=_decided(fate, built))
        if answer in ("gone", "empty") and self._foreign is not None:
            empty = built.queue if answer == "empty" else ""
            self._foreign.is_gone(run, now_ms=self._now_ms, empty=empty)
        if answer == "ok":
            event(_log, "run.redelivered", run=run.id, job=run.job_name)
        return answer == "ok"

    def _fate(self, run: Run, spec: JobSpec, queue: str) -> Fate:
        if self._foreign is None:
            return Fate()
        return self._foreign.fate(run, spec, queue=queue, now_ms=self._now_ms)

    def _built(self, overdue: UndeliveredRun, spec: JobSpec) -> tuple[BuiltMessage, Fate]:
        """Return the message to push, if any, and what to do with the run.

        Building a message may run the project's own code, which may take a lock. So no message is
        built unless it is needed.
        """
        run = overdue.run
        build = partial(
            built_or_fault,
            self._messages,
            spec,
            run_id=run.id,
            due_ms=to_ms(run.due_at),
            attempt=run.attempt,
            push=overdue.push,
        )
        if overdue.is_unpushed:
            built = build()
            return built, self._fate(run, spec, built.queue)
        (queue,) = self._runs.queues_of([run.id])
        fate = self._fate(run, spec, queue)
        is_needed = not (fate.hesitates or fate.when_gone)
        return build() if is_needed else BuiltMessage(queue=queue), fate

    def _end(self, overdue: UndeliveredRun, built: BuiltMessage) -> None:
        """End a run that got no message, unless an earlier one may still reach a worker.

        A lock that refuses the message because the task is queued already may be right.
        """
        waits_ms = self._now_ms - to_ms(overdue.run.queued_at)
        if not overdue.is_unsent and waits_ms < _PATIENCE_MS:
            self._runs.put_off(overdue, now_ms=self._now_ms)
            return
        state, reason, error = ending_of(built)
        end = EarlyEnd(state=state, reason=reason, error=error)
        self._runs.end_waiting(overdue.run.id, end, now_ms=self._now_ms, token=self._token)
        log_ended(overdue.run.id, built)

    def _lose(self, run_id: str) -> bool:
        spec, attempt = self._runs.spec_of(run_id)
        policy = Policy() if spec is None else spec.policy
        wants_it = spec is not None and self._messages.runs_again(spec)
        retry_at_ms = None
        if retries_loss(policy, attempt=attempt, task_wants_it=wants_it):
            wait = retry_wait_ms(policy, attempt=attempt, jitter=random.random())
            retry_at_ms = self._now_ms + wait
        answer = self._runs.lose(
            run_id, error=LOST, token=self._token, now_ms=self._now_ms, retry_at_ms=retry_at_ms
        )
        if answer == "alive":
            return False
        event(_log, "run.lost", level=logging.WARNING, run=run_id, then=answer)
        if answer == "ok":
            self.given_up.append(run_id)
        return True


def _decided(fate: Fate, built: BuiltMessage) -> Fate:
    """Return a run's fate, changed if the project's own code has published the message."""
    if built.way not in (BuildOutcome.ELSEWHERE, BuildOutcome.UNFOLLOWED):
        return fate
    return msgspec.structs.replace(
        fate,
        when_gone=built.why_sent or fate.when_gone,
        when_pushed=built.why_sent or fate.when_pushed,
        is_elsewhere=True,
    )


def _job_of(run_id: str) -> str:
    """Return the job id in a run id; "" for text that is not a run id."""
    return job_id_of(run_id) if is_run_id(run_id) else ""
