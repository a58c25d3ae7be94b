"""One tick: a single pass over due jobs, up to 2,000 of them. No sleep, no endless loop.

Order matters: the fencing token is read before planning, `now` is read once, and each batch is
written in one atomic step. A tick that is killed has written all of a batch or nothing of it. What
was not written is still due, and the next tick, on any machine, does it. A job that cannot be
planned is taken off the schedule, with its fault on record. A job with a broken key is put off.
Neither stops the others. A message whose building runs the project's code is built after its run
was admitted, and pushed at once (`deferred_messages.py`).

Steps that were planned ahead are written first, then the due index names the other due jobs. Server
and beat work at the same time: while Redis writes one batch, the beat plans the next, whose jobs it
has already requested.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from hermes_celery.core.policy import Overlap
from hermes_celery.errors import HermesCeleryError, RecordBroken
from hermes_celery.events import event
from hermes_celery.scheduling.deferred_messages import BUILDING_SECONDS, build_and_push
from hermes_celery.scheduling.planned_runs import BuildsMessages, PreparedSteps, prepare
from hermes_celery.store import Advance, Advanced, BrokenJob, DueIndex, StepAnswer

if TYPE_CHECKING:
    from hermes_celery.scheduling.look_ahead import LookAhead

_log = logging.getLogger(__name__)

#: Jobs per script call; 100 take about 2 ms of the server's time.
JOBS_PER_CALL = 100
#: Jobs per tick; 2,000 take a tenth of a second, a fraction of the lease.
MOST_JOBS = 2_000
#: Messages that the project's own code builds in one tick, at most.
MOST_BUILT = 400
#: Steps that are written before their messages are built: few, so that few runs wait for rescue
#: if the leader dies or loses its lease in between.
_BUILT_AT_ONCE = 20
#: Batches sent to the server at once: one is written while the next one waits.
_IN_FLIGHT = 2
#: Milliseconds until a job that could not be dispatched is tried again.
_AGAIN_MS = 10_000


class TickReport(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of what one tick did."""

    now_ms: int
    dispatched: int = 0
    #: Runs recorded that wait for an earlier run of their job to end.
    held: int = 0
    #: Runs recorded as skipped because an earlier run of the job was not over.
    overlapping: int = 0
    #: Runs recorded as skipped because their occurrence was missed or the job paused.
    skipped: int = 0
    #: Steps of jobs that were edited or removed meanwhile; the next tick reads the jobs again.
    moved: int = 0
    #: Occurrences that already had a run.
    ran: int = 0
    #: Jobs taken off the schedule because they cannot be planned, and, with a `key`, jobs put off
    #: because that key is broken.
    faults: tuple[BrokenJob, ...] = ()
    #: Whether the whole scheduler is paused, so that no job was read.
    paused: bool = False
    #: The earliest instant after this tick at which a job is due, Unix ms.
    next_due_ms: int | None = None

    @property
    def broken(self) -> int:
        """The number of jobs that could not be planned or dispatched."""
        return len(self.faults)


@dataclass(frozen=True, slots=True)
class Ticker:
    """Ticks one due index."""

    due_index: DueIndex
    messages: BuildsMessages
    #: The steps planned while nothing was due; None: no planning ahead.
    ahead: LookAhead | None = None
    monotonic: Callable[[], float] = time.monotonic

    def tick(self, *, token: int, now_ms: int, most: int = MOST_JOBS) -> TickReport:
        """Dispatch the jobs due at `now_ms` (Unix ms, the server's time), up to `most` jobs.

        Raises LeaseLost when a newer leader has taken over, and StoreError when Redis fails. In
        either case no batch is half written.
        """
        due_index = self.due_index
        switch = due_index.switch()
        if switch.paused_ms is not None:
            return TickReport(now_ms=now_ms, paused=True)
        faults: list[BrokenJob] = []
        writing = _BatchWriter(self, token=token, now_ms=now_ms)
        with writing:
            taken: list[Advance] = []
            if self.ahead is not None:
                taken = self.ahead.take(now_ms, resumed_ms=switch.resumed_ms, limit=most)
            writing.write(taken)
            # Once these are written they are off the index, so they are not read again.
            writing.settle()
            for prepared in _read(
                due_index,
                self.messages,
                limit=most - len(taken),
                now_ms=now_ms,
                resumed_ms=switch.resumed_ms,
            ):
                _take_off(due_index, prepared.faults, token=token, now_ms=now_ms)
                faults += prepared.faults
                if not writing.write_and_build(prepared.steps):
                    # The rest stays due, and the lease must be renewed.
                    break
            writing.settle()
        _put_off(due_index, writing.faults, token=token, now_ms=now_ms)
        return _report_of(
            writing.counts,
            faults=(*faults, *writing.faults),
            now_ms=now_ms,
            next_due_ms=due_index.next_due_ms(),
        )


def merged(reports: Sequence[TickReport]) -> TickReport | None:
    """Return the sum of several shards' reports; None if there is none."""
    if len(reports) <= 1:
        return reports[0] if reports else None
    due = [report.next_due_ms for report in reports if report.next_due_ms is not None]
    return TickReport(
        now_ms=reports[-1].now_ms,
        dispatched=sum(report.dispatched for report in reports),
        held=sum(report.held for report in reports),
        overlapping=sum(report.overlapping for report in reports),
        skipped=sum(report.skipped for report in reports),
        moved=sum(report.moved for report in reports),
        ran=sum(report.ran for report in reports),
        faults=tuple(fault for report in reports for fault in report.faults),
        paused=any(report.paused for report in reports),
        next_due_ms=min(due, default=None),
    )


def _report_of(
    counts: Counter[StepAnswer],
    *,
    faults: tuple[BrokenJob, ...],
    now_ms: int,
    next_due_ms: int | None,
) -> TickReport:
    return TickReport(
        now_ms=now_ms,
        dispatched=counts[StepAnswer.OK],
        held=counts[StepAnswer.HELD],
        overlapping=counts[StepAnswer.OVERLAP],
        skipped=counts[StepAnswer.SKIPPED],
        moved=counts[StepAnswer.MOVED],
        ran=counts[StepAnswer.RAN],
        faults=faults,
        next_due_ms=next_due_ms,
    )


def _read(
    due_index: DueIndex, messages: BuildsMessages, *, limit: int, now_ms: int, resumed_ms: int
) -> Iterator[PreparedSteps]:
    """Yield planned jobs batch by batch; each batch is requested before the previous is planned."""
    if not limit:
        return
    ids = due_index.due_ids(now_ms, limit=limit)
    slices = [ids[start : start + JOBS_PER_CALL] for start in range(0, len(ids), JOBS_PER_CALL)]
    asked = [due_index.begin_read(part) for part in slices[:1]]
    try:
        for following in [*slices[1:], None] if asked else []:
            rows = asked.pop()()
            if following is not None:
                asked.append(due_index.begin_read(following))
            yield prepare(rows, messages, now_ms=now_ms, resumed_ms=resumed_ms)
    finally:
        # After an error the rest is read only to free its connection.
        for rows_of in asked:
            with suppress(HermesCeleryError):
                rows_of()


def _take_off(due_index: DueIndex, faults: Sequence[BrokenJob], *, token: int, now_ms: int) -> None:
    """Take jobs that cannot be planned off the schedule, some only until a later instant."""
    for fault in faults:
        again_ms = fault.again_ms
        if again_ms is not None:
            due_index.defer([fault.job_id], until_ms=again_ms, token=token, now_ms=now_ms)
        else:
            _fault_or_defer(due_index, fault, token=token, now_ms=now_ms)
        event(_log, "job.broken", level=logging.ERROR, job=fault.job_id, error=fault.error)


def _fault_or_defer(due_index: DueIndex, fault: BrokenJob, *, token: int, now_ms: int) -> None:
    try:
        due_index.fault(fault, token=token)
    except RecordBroken:
        # The key of its record has another type; the sweep repairs it once the fault is reported.
        due_index.defer([fault.job_id], until_ms=now_ms + _AGAIN_MS, token=token, now_ms=now_ms)


def _put_off(due_index: DueIndex, faults: Sequence[BrokenJob], *, token: int, now_ms: int) -> None:
    """Put off jobs that cannot be dispatched now, so that they do not fail at every tick."""
    if faults:
        ids = [fault.job_id for fault in faults]
        due_index.defer(ids, until_ms=now_ms + _AGAIN_MS, token=token, now_ms=now_ms)
    for fault in faults:
        event(_log, "job.put_off", level=logging.ERROR, job=fault.job_id, error=fault.error)


class _BatchWriter:
    """Sends one tick's batches to the server, two at once."""

    def __init__(self, ticker: Ticker, *, token: int, now_ms: int) -> None:
        self._monotonic = ticker.monotonic
        self._due_index = ticker.due_index
        self._messages = ticker.messages
        self._ahead = ticker.ahead
        self._token = token
        self._now_ms = now_ms
        self._sent: deque[tuple[Sequence[Advance], Callable[[], list[Advanced]]]] = deque()
        self.counts: Counter[StepAnswer] = Counter()
        #: Steps whose runs were admitted, and whose messages must be built now.
        self._late: list[Advance] = []
        self._built = 0
        self._building_seconds = 0.0
        #: Jobs with a step that needs a broken key.
        self.faults: list[BrokenJob] = []

    def __enter__(self) -> _BatchWriter:
        return self

    def __exit__(self, *error: object) -> None:
        # After an error, read the answers to batches already sent, to free their connections.
        while self._sent:
            with suppress(HermesCeleryError):
                self._sent.popleft()[1]()

    def write(self, steps: Sequence[Advance]) -> None:
        """Send steps in calls of bounded size: a job with many catch-ups has many steps."""
        for start in range(0, len(steps), JOBS_PER_CALL):
            part = [step for step in steps[start : start + JOBS_PER_CALL] if self._has_room(step)]
            if len(self._sent) == _IN_FLIGHT:
                self._read_answer()
            answers = self._due_index.begin_advance(part, token=self._token, now_ms=self._now_ms)
            self._sent.append((part, answers))

    def settle(self) -> None:
        """Wait for the answers to all batches sent."""
        while self._sent:
            self._read_answer()

    def _read_answer(self) -> None:
        part, answers = self._sent.popleft()
        words = answers()
        self.counts.update(word for word in words if isinstance(word, StepAnswer))
        if self._ahead is not None:
            self._ahead.expect(part)
        self.faults += _report(part, words)
        if any([step.is_late for step in part]):
            self._late += [
                step
                for step, word in zip(part, words, strict=True)
                if word is StepAnswer.OK and step.is_late
            ]

    def write_and_build(self, steps: Sequence[Advance]) -> bool:
        """Send steps, and build the messages of late ones after their runs are admitted.

        Returns False when building has taken too long and the tick must end; steps may be left
        then.
        """
        if not any([step.is_late for step in steps]):
            self.write(steps)
            return True
        for start in range(0, len(steps), _BUILT_AT_ONCE):
            self.write(steps[start : start + _BUILT_AT_ONCE])
            self.settle()
            self._build()
            if self._building_seconds > BUILDING_SECONDS or self._built >= MOST_BUILT:
                return False
        return True

    def _build(self) -> None:
        late, self._late = self._late, []
        self._built += len(late)
        began = self._monotonic()
        build_and_push(
            self._due_index, self._messages, late, token=self._token, now_ms=self._now_ms
        )
        self._building_seconds += self._monotonic() - began

    def _has_room(self, step: Advance) -> bool:
        """Make room for a step that replaces its job's running run; return False if that fails."""
        if step.due.spec.policy.overlap is not Overlap.REPLACE or step.step.skip:
            return True
        # Room is made before the step is written: if the beat is killed in between, the job is
        # still due, and the next tick finds room. It is made after the earlier steps are written,
        # because they may belong to the same job.
        self.settle()
        try:
            self._due_index.make_room(
                step.due.spec,
                run_id=step.run_id,
                queue=step.queue,
                token=self._token,
                now_ms=self._now_ms,
            )
        except RecordBroken as error:
            self.faults.append(_fault(step, error))
            return False
        return True


_EVENTS = {
    # DEBUG, because a tick may dispatch a thousand runs; one line per tick gives the count.
    StepAnswer.OK: ("run.dispatched", logging.DEBUG),
    StepAnswer.HELD: ("run.held", logging.INFO),
    StepAnswer.OVERLAP: ("run.skipped", logging.INFO),
    StepAnswer.SKIPPED: ("run.skipped", logging.INFO),
    StepAnswer.MOVED: ("job.moved", logging.DEBUG),
    StepAnswer.RAN: ("run.known", logging.INFO),
}


def _report(batch: Sequence[Advance], answers: Sequence[Advanced]) -> list[BrokenJob]:
    """Log the outcome of each step, and return the jobs whose step failed."""
    faults = []
    for advance, answer in zip(batch, answers, strict=True):
        if isinstance(answer, RecordBroken):
            faults.append(_fault(advance, answer))
            continue
        name, level = _EVENTS[answer]
        if _log.isEnabledFor(level):
            event(
                _log,
                name,
                level=level,
                run=advance.run_id,
                job=advance.due.spec.name,
                why=advance.step.skip or None,
            )
    return faults


def _fault(advance: Advance, error: RecordBroken) -> BrokenJob:
    return BrokenJob(job_id=advance.due.spec.id, error=str(error), key=error.key)
