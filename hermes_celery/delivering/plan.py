"""Plan a delivery when it is sent: its parts and their targets.

A plan decides whether an outcome is worth reporting. A failure is counted as an incident first; a
success may end one. Nothing is sent here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from hermes_celery.core.incidents import (
    FAILED,
    Trouble,
    TroubleKind,
    failure_line,
    failure_target,
    is_worth_telling,
    recovery,
    with_next_step,
)
from hermes_celery.core.job import Job
from hermes_celery.core.output import as_text
from hermes_celery.core.run import DeliveryState, Run, RunState, is_run_id, job_id_of
from hermes_celery.core.targets import Target
from hermes_celery.core.work import WorkKind
from hermes_celery.delivering.address_book import OpenBook
from hermes_celery.delivering.outgoing_message import Message, message_of
from hermes_celery.errors import RecordBroken
from hermes_celery.events import event
from hermes_celery.instant import to_ms
from hermes_celery.store import (
    DeliveryPart,
    DeliveryRecord,
    Incidents,
    PartContent,
    Runs,
    ToldIncident,
)
from hermes_celery.store.incidents import IncidentStanding

if TYPE_CHECKING:
    from hermes_celery.clock import Clock

_log = logging.getLogger(__name__)


class DeliveryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a delivery, with the text of a failure and the incident that it reports."""

    parts: tuple[DeliveryPart, ...] = ()
    text: str = ""
    warning: str = ""
    told: ToldIncident | None = None


class DeliverySubject:
    """The run and job of one pass over a delivery, and the run's message."""

    def __init__(
        self, run: Run | None, job: Job | None, *, runs: Runs, book: OpenBook, wrap: bool
    ) -> None:
        self.run = run
        self.job = job
        self._runs = runs
        self.book = book
        self._wrap = wrap
        self._output: Message | None = None

    def message(self, what: PartContent, record: DeliveryRecord) -> Message:
        """Return the message of a part. Raises StoreError."""
        run, job = self.run, self.job
        if what is PartContent.RECOVERY:
            return Message(title=job.name if job else "", text=record.recovery)
        if what is not PartContent.OUTPUT or run is None or job is None:
            return Message(title=job.name if job else "hermes-celery", text=record.text)
        # Rendering may take seconds, so it is done once per pass.
        if self._output is None:
            output = as_text(self._runs.output(run.id)).strip()
            self._output = message_of(
                job, run, output, wrap=self._wrap, attachments=self.book.attachments
            )
        return self._output


class Planner:
    """Plans deliveries."""

    def __init__(self, *, incidents: Incidents, clock: Clock) -> None:
        self._incidents = incidents
        self._clock = clock

    def planned(self, record: DeliveryRecord, subject: DeliverySubject) -> DeliveryPlan:
        """Return the plan of the delivery as of now. Raises StoreError."""
        run, job = subject.run, subject.job
        if run is None:
            return DeliveryPlan(parts=self._parts(PartContent.NOTICE, record.deliver, subject))
        if job is None:
            # The job was removed, so nobody waits for its output.
            return DeliveryPlan()
        plan = self._of_failure(record, subject, run, job) if run.state in FAILED else None
        plan = plan or self._of_success(record, subject, run, job)
        if record.again == "failed":
            plan = msgspec.structs.replace(plan, parts=_kept(plan.parts, record))
        if job.spec.ping and not record.again:
            ping = DeliveryPart(what=PartContent.PING, target=Target(url=job.spec.ping))
            plan = msgspec.structs.replace(plan, parts=(*plan.parts, ping))
        return plan

    def _of_success(
        self, record: DeliveryRecord, subject: DeliverySubject, run: Run, job: Job
    ) -> DeliveryPlan:
        if run.state is not RunState.SUCCEEDED:
            return DeliveryPlan()
        told = () if record.again else self._recovery_parts(record, subject, run, job)
        if run.delivery is not DeliveryState.PENDING:
            return DeliveryPlan(parts=told)
        message = subject.message(PartContent.OUTPUT, record)
        return DeliveryPlan(
            parts=(*self._parts(PartContent.OUTPUT, job.spec.deliver, subject), *told),
            warning="; ".join(message.warnings),
        )

    def _of_failure(
        self, record: DeliveryRecord, subject: DeliverySubject, run: Run, job: Job
    ) -> DeliveryPlan:
        error = run.error or run.state.value
        summary = failure_line(job.name, error, is_agent=job.spec.kind is WorkKind.AGENT)
        noted = self._noted(
            Trouble(
                kind=TroubleKind.FAILURE,
                subject=job.id,
                text=summary,
                error=error,
                job_id=job.id,
                job_name=job.name,
                run_id=run.id,
            )
        )
        is_new = is_worth_telling(noted.count, told=noted.told, is_acked=noted.is_acked)
        if not (is_new or record.again):
            event(_log, "failure.not_told", run=run.id, incident=noted.id, count=noted.count)
            return DeliveryPlan()
        return DeliveryPlan(
            parts=self._parts(PartContent.FAILURE, failure_target(job.spec), subject),
            text=with_next_step(summary, run.id, count=noted.count),
            told=ToldIncident(id=noted.id, count=noted.count),
        )

    def _noted(self, trouble: Trouble) -> IncidentStanding:
        try:
            return self._incidents.report(trouble, now_ms=self._clock.now_ms())
        except RecordBroken as error:
            # Reporting too often is better than never.
            incident = trouble.incident_id
            event(_log, "incident.broken", level=logging.ERROR, incident=incident, why=error)
            return IncidentStanding(id=incident, count=1, told=0, is_acked=False)

    def _recovery_parts(
        self, record: DeliveryRecord, subject: DeliverySubject, run: Run, job: Job
    ) -> tuple[DeliveryPart, ...]:
        """Close the job's incidents; return the parts that report the recovery, if any.

        Only incidents that were reported are reported as over.
        """
        worked_ms = to_ms(run.finished_at or run.queued_at)
        try:
            over = [i for i in self._incidents.of_job(job.id) if to_ms(i.last_at) <= worked_ms]
            told = [incident for incident in over if incident.told]
            text = recovery(told) if told else ""
            closed = self._incidents.close(
                over,
                job_id=job.id,
                now_ms=self._clock.now_ms(),
                worked_ms=worked_ms,
                delivery_id=run.id,
                recovery=text,
            )
        except RecordBroken as error:
            event(_log, "incident.broken", level=logging.ERROR, job=job.id, why=error)
            return ()
        # An earlier attempt may have closed the incidents, and died before it stored the plan.
        if not (record.recovery or (closed and text)):
            return ()
        return self._parts(PartContent.RECOVERY, failure_target(job.spec), subject)

    def _parts(
        self, what: PartContent, deliver: str, subject: DeliverySubject
    ) -> tuple[DeliveryPart, ...]:
        origin = subject.job.spec.origin if subject.job else None
        sent = [
            DeliveryPart(what=what, target=target)
            for target in subject.book.targets(deliver, origin)
        ]
        lost = [
            DeliveryPart(
                what=what,
                target=Target(name=name),
                fault=f"no delivery target resolved for deliver={name}",
            )
            for name in subject.book.without_target(deliver, origin)
        ]
        return (*sent, *lost)


def note_trouble(
    incidents: Incidents, delivery_id: str, why: str, *, now_ms: int, job_name: str = ""
) -> None:
    """Log that a delivery cannot go on, and record it as an incident of its job."""
    event(_log, "delivery.broken", level=logging.ERROR, id=delivery_id, why=why)
    job_id = job_id_of(delivery_id) if is_run_id(delivery_id) else ""
    trouble = Trouble(
        kind=TroubleKind.BROKEN,
        subject=job_id,
        text=f"the delivery {delivery_id} cannot go on: {why}",
        error=why,
        job_id=job_id,
        job_name=job_name,
    )
    try:
        incidents.report(trouble, now_ms=now_ms)
    except RecordBroken as error:
        event(_log, "delivery.not_noted", level=logging.ERROR, id=delivery_id, why=error)


def _kept(parts: tuple[DeliveryPart, ...], record: DeliveryRecord) -> tuple[DeliveryPart, ...]:
    """Return a new plan's parts; those that reached their target before count as delivered."""
    reached = [
        (state.part.what, state.part.target)
        for state in record.parts or ()
        if state.state is DeliveryState.DELIVERED
    ]
    return tuple(
        msgspec.structs.replace(part, was_delivered=(part.what, part.target) in reached)
        for part in parts
    )
