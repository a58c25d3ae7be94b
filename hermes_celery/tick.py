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
from hermes_celery.policy import Overlap
from hermes_celery.run import Occurrence
from hermes_celery.store import Advance, Answer, BrokenJob, DueIndex

_log = logging.getLogger(__name__)

#: So many jobs in one script call stall Redis for about 3 ms.
BATCH = 100


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
    #: Recorded, and waiting for an earlier run of their job to end.
    held: int = 0
    #: Recorded as skipped because an earlier run of the job was not over.
    overlapping: int = 0
    #: Recorded as skipped because they were missed or paused.
    skipped: int = 0
    #: Edited or removed while we planned; still due if they are.
    moved: int = 0
    #: Their occurrence had its run already.
    ran: int = 0
    #: Taken off the schedule because they cannot be planned.
    broken: int = 0
    #: Everything is paused, so nothing was looked at.
    paused: bool = False
    #: The earliest instant that a job is due after this tick.
    next_due_ms: int | None = None


def tick(due_index: DueIndex, messages: Messages, *, token: int, now_ms: int) -> TickReport:
    """Dispatch what is due at `now_ms` (Unix ms, the server's time), up to one batch.

    Raises LeaseLost when a younger leader has taken over, and StoreError when Redis fails; either
    way nothing is half written.
    """
    switch = due_index.switch()
    if switch.paused_ms is not None:
        return TickReport(now_ms=now_ms, paused=True)
    rows = due_index.due(now_ms, limit=BATCH)
    batch, faults = _planned(rows, messages, now_ms=now_ms, resumed_ms=switch.resumed_ms)
    for fault in faults:
        due_index.fault(fault, token=token)
        event(_log, "job.broken", level=logging.ERROR, job=fault.job_id, error=fault.error)
    answers = _written(due_index, batch, token=token, now_ms=now_ms)
    counts = Counter(answers)
    return TickReport(
        now_ms=now_ms,
        dispatched=counts[Answer.OK],
        held=counts[Answer.HELD],
        overlapping=counts[Answer.OVERLAP],
        skipped=counts[Answer.SKIPPED],
        moved=counts[Answer.MOVED],
        ran=counts[Answer.RAN],
        broken=len(faults),
        next_due_ms=due_index.next_due_ms(),
    )


def _written(due_index: DueIndex, batch: list[Advance], *, token: int, now_ms: int) -> list[Answer]:
    """Write all steps, in calls of bounded size: a chain of catch-ups may be long."""
    answers: list[Answer] = []
    for start in range(0, len(batch), BATCH):
        part = batch[start : start + BATCH]
        for step in part:
            if step.due.spec.policy.overlap is Overlap.REPLACE and not step.step.skip:
                # Before the step is written: killed in between, the job is still due, and the
                # tick after this one finds room.
                due_index.make_room(
                    step.due.spec,
                    run_id=step.run_id,
                    queue=step.queue,
                    token=token,
                    now_ms=now_ms,
                )
        words = due_index.advance(part, token=token, now_ms=now_ms)
        _report(part, words)
        answers += words
    return answers


def _planned(
    rows: Iterable[DueJob | BrokenJob], messages: Messages, *, now_ms: int, resumed_ms: int
) -> tuple[list[Advance], list[BrokenJob]]:
    """The steps that could be planned and prepared, and the jobs for which none could."""
    batch: list[Advance] = []
    faults: list[BrokenJob] = []
    for row in rows:
        if isinstance(row, BrokenJob):
            faults.append(row)
            continue
        try:
            batch += _prepared(plan(row, now_ms=now_ms, resumed_ms=resumed_ms), messages)
        except Exception as error:  # noqa: BLE001 - one bad job must not stop the others
            faults.append(_broken(row, f"{type(error).__name__}: {error}"))
    return batch, faults


def _broken(due: DueJob, error: str) -> BrokenJob:
    return BrokenJob(job_id=due.spec.id, revision=str(due.revision), error=error)


def _prepared(decision: Plan, messages: Messages) -> list[Advance]:
    """A plan's steps with their runs and messages."""
    due, spec = decision.due, decision.due.spec
    prepared = []
    for step in decision.steps:
        run_id = Occurrence(job_id=spec.id, due_ms=step.occurrence_ms).run_id
        message = messages.message(spec, run_id=run_id, due_ms=step.occurrence_ms)
        prepared.append(
            Advance(due=due, step=step, run_id=run_id, queue=messages.queue(spec), message=message)
        )
    return prepared


_EVENTS = {
    # One line per tick says how many; one per run only on request, at a thousand in a tick.
    Answer.OK: ("run.dispatched", logging.DEBUG),
    Answer.HELD: ("run.held", logging.INFO),
    Answer.OVERLAP: ("run.skipped", logging.INFO),
    Answer.SKIPPED: ("run.skipped", logging.INFO),
    Answer.MOVED: ("job.moved", logging.DEBUG),
    Answer.RAN: ("run.known", logging.INFO),
}


def _report(batch: list[Advance], answers: list[Answer]) -> None:
    for advance, answer in zip(batch, answers, strict=True):
        name, level = _EVENTS[answer]
        event(
            _log,
            name,
            level=level,
            run=advance.run_id,
            job=advance.due.spec.name,
            why=advance.step.skip or None,
        )
