"""One tick: a single pass over one batch of what is due. No sleep, no loop.

Order matters: the lease's token is read before anything is planned, `now` is taken once, and the
batch is written in one atomic step. A tick that is killed anywhere has written all of its batch or
nothing: what was not written is still due, and the next tick, here or on another machine, does it.
A job that cannot be planned is taken off the schedule with its fault on record, and never stops the
others.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

import msgspec

from hermes_celery.job import JobSpec
from hermes_celery.log import event
from hermes_celery.planning import DueJob, Plan, plan
from hermes_celery.run import Occurrence
from hermes_celery.store import Advance, Answer, BrokenJob, DueIndex

_log = logging.getLogger(__name__)

#: So many jobs in one script call stall Redis for less than 5 ms.
BATCH = 200


class Messages(Protocol):
    """What builds messages: `dispatch.Dispatch`, or a stand-in where no Celery is at hand."""

    def queue(self, spec: JobSpec) -> str:
        """The queue that a job's runs go to."""

    def message(self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int = 1) -> bytes:
        """The message of one run."""


class TickReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one tick did."""

    now_ms: int
    dispatched: int = 0
    #: Recorded as skipped because an earlier run of the job was not over.
    overlapping: int = 0
    #: Edited or removed while we planned; still due if they are.
    moved: int = 0
    #: Their occurrence had its run already.
    ran: int = 0
    #: Taken off the schedule because they cannot be planned.
    broken: int = 0
    #: The earliest instant that a job is due after this tick.
    next_due_ms: int | None = None


def tick(due_index: DueIndex, messages: Messages, *, token: int, now_ms: int) -> TickReport:
    """Dispatch what is due at `now_ms` (Unix ms, the server's time), up to one batch.

    Raises LeaseLost when a younger leader has taken over, and StoreError when Redis fails; either
    way nothing is half written.
    """
    rows = due_index.due(now_ms, limit=BATCH)
    batch, faults = _planned(rows, messages, now_ms=now_ms)
    for fault in faults:
        due_index.fault(fault.job_id, error=fault.error, token=token)
        event(_log, "job.broken", level=logging.ERROR, job=fault.job_id, error=fault.error)
    answers = due_index.advance(batch, token=token, now_ms=now_ms) if batch else []
    _report(batch, answers)
    counts = Counter(answers)
    return TickReport(
        now_ms=now_ms,
        dispatched=counts[Answer.OK],
        overlapping=counts[Answer.OVERLAP],
        moved=counts[Answer.MOVED],
        ran=counts[Answer.RAN],
        broken=len(faults),
        next_due_ms=due_index.next_due_ms(),
    )


def _planned(
    rows: Iterable[DueJob | BrokenJob], messages: Messages, *, now_ms: int
) -> tuple[list[Advance], list[BrokenJob]]:
    """The plans that could be made, and the jobs for which none could."""
    batch: list[Advance] = []
    faults: list[BrokenJob] = []
    for row in rows:
        if isinstance(row, BrokenJob):
            faults.append(row)
            continue
        try:
            batch.append(_prepared(plan(row, now_ms=now_ms), messages))
        except Exception as error:  # noqa: BLE001 - one bad job must not stop the others
            faults.append(BrokenJob(job_id=row.spec.id, error=f"{type(error).__name__}: {error}"))
    return batch, faults


def _prepared(decision: Plan, messages: Messages) -> Advance:
    spec, due_ms = decision.due.spec, decision.occurrence_ms
    run_id = Occurrence(job_id=spec.id, due_ms=due_ms).run_id
    return Advance(
        plan=decision,
        run_id=run_id,
        queue=messages.queue(spec),
        message=messages.message(spec, run_id=run_id, due_ms=due_ms),
    )


def _report(batch: list[Advance], answers: list[Answer]) -> None:
    for step, answer in zip(batch, answers, strict=True):
        word = {
            Answer.OK: "run.dispatched",
            Answer.OVERLAP: "run.skipped",
            Answer.MOVED: "job.moved",
            Answer.RAN: "run.known",
        }[answer]
        event(
            _log,
            word,
            run=step.run_id,
            job=step.plan.due.spec.name,
            lateness=step.plan.lateness.value,
        )
