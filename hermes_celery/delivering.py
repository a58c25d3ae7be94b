"""From a run's end to people: plan, claim, send, record; one pass over one delivery.

A delivery is planned once: which targets there are is decided when it is sent, not when the job was
written. Then each part is claimed, sent and recorded by itself. A message that comes twice finds
the parts claimed or over; a sender that dies between sending and recording leaves a claim that dies
too, and the part is sent again: at most one duplicate for each such death, never a loss.

Delivering never touches the run: its state is final. What fails is tried again with growing,
jittered waits through the index of deliveries; what cannot succeed is given up at once.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from hermes_celery.delivery.book import AddressBook
from hermes_celery.delivery.channels import Channels
from hermes_celery.delivery.message import Message, message_of
from hermes_celery.delivery.targets import Target
from hermes_celery.errors import (
    DeliveryFault,
    DeliveryRefused,
    HermesCeleryError,
    JobNotFound,
    RunNotFound,
    StoreError,
)
from hermes_celery.incidents import (
    FAILED,
    Kind,
    failure_line,
    incident_id,
    is_worth_telling,
    recovery,
    with_next_step,
)
from hermes_celery.instant import to_ms
from hermes_celery.job import Job, JobSpec
from hermes_celery.log import event
from hermes_celery.output import as_text
from hermes_celery.ping import Ping, Signal
from hermes_celery.run import Delivery, Run, RunState, is_run_id
from hermes_celery.sending import MessageSender, NoWay, PingSender, Sender
from hermes_celery.store import Deliveries, Incidents, Jobs, Part, Record, Runs, What
from hermes_celery.work import WorkKind

if TYPE_CHECKING:
    from hermes_celery.clock import Clock

_log = logging.getLogger(__name__)

MAX_ATTEMPTS = 10
_MAX_WAIT_SECONDS = 3600.0
#: A far end that was asked too often gets more time.
_SLOW_DOWN = 4
#: What a claim lasts beyond the time that sending may take.
_MARGIN_SECONDS = 5.0


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a delivery consists of."""

    parts: tuple[Part, ...] = ()
    text: str = ""
    warning: str = ""
    incident: str = ""
    told: int | None = None


def wait_seconds(attempt: int, *, first: float, jitter: float, slow_down: bool = False) -> float:
    """How long to wait after attempt number `attempt`: exponential, capped, jittered.

    `jitter` is a number from 0 to 1, and half of the wait is left to it.
    """
    wait = min(first * 2.0 ** min(attempt - 1, 30), _MAX_WAIT_SECONDS)
    if slow_down:
        wait = min(wait * _SLOW_DOWN, _MAX_WAIT_SECONDS)
    return wait * (1 + jitter) / 2


class Deliverer:
    """Delivers in one process; everything it needs is an argument."""

    def __init__(
        self,
        *,
        deliveries: Deliveries,
        incidents: Incidents,
        jobs: Jobs,
        runs: Runs,
        book: AddressBook,
        channels: Channels,
        clock: Clock,
        wrap: bool,
        first_wait_seconds: float,
        timeout_seconds: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._deliveries = deliveries
        self._incidents = incidents
        self._jobs = jobs
        self._runs = runs
        self._book = book
        self._channels = channels
        self._clock = clock
        self._wrap = wrap
        self._first_wait_seconds = first_wait_seconds
        self._timeout_seconds = timeout_seconds
        self._jitter = jitter

    def deliver(self, delivery_id: str) -> str:
        """Send what is due of one delivery, and say in one word where it stands.

        Raises StoreError when Redis fails; what was not recorded is done again.
        """
        record = self._deliveries.get(delivery_id)
        run, job = self._subject(delivery_id, record)
        if is_run_id(delivery_id) and run is None:
            self._deliveries.forget(delivery_id)
            return "gone"
        if record.parts is None or record.again:
            self._write_plan(record, run, job)
            record = self._deliveries.get(delivery_id)
        standing = "over"
        for number, part in enumerate(record.parts or ()):
            if part.state is Delivery.PENDING:
                standing = self._send_part(record, number, run, job)
        return standing

    def _subject(self, delivery_id: str, record: Record) -> tuple[Run | None, Job | None]:
        run = None
        if is_run_id(delivery_id):
            try:
                run = self._runs.get(delivery_id)
            except RunNotFound:
                return None, None
        job_id = run.job_id if run else record.job_id
        try:
            return run, self._jobs.get(job_id) if job_id else None
        except JobNotFound:
            return run, None

    def _write_plan(self, record: Record, run: Run | None, job: Job | None) -> None:
        plan = self._planned(record, run, job)
        self._deliveries.plan(
            record.id,
            plan.parts,
            now_ms=self._clock.now_ms(),
            text=plan.text,
            warning=plan.warning,
            incident=plan.incident,
            told=plan.told,
        )

    def _planned(self, record: Record, run: Run | None, job: Job | None) -> _Plan:
        if run is None:
            return _Plan(parts=self._parts(What.NOTICE, record.deliver, job))
        if job is None:
            # Whoever removed the job does not wait for its output.
            return _Plan()
        plan = self._of_failure(record, run, job) if run.state in FAILED else None
        plan = plan or self._of_success(record, run, job)
        if record.again == "failed":
            plan = msgspec.structs.replace(plan, parts=_kept(plan.parts, record))
        if job.spec.ping and not record.again:
            ping = Part(what=What.PING, target=Target(url=job.spec.ping))
            plan = msgspec.structs.replace(plan, parts=(*plan.parts, ping))
        return plan

    def _of_success(self, record: Record, run: Run, job: Job) -> _Plan:
        if run.state is not RunState.SUCCEEDED:
            return _Plan()
        told = () if record.again else self._recovery_parts(record, run, job)
        if run.delivery is not Delivery.PENDING:
            return _Plan(parts=told)
        message = self._message(What.OUTPUT, record, run, job)
        return _Plan(
            parts=(*self._parts(What.OUTPUT, job.spec.deliver, job), *told),
            warning="; ".join(message.warnings),
        )

    def _of_failure(self, record: Record, run: Run, job: Job) -> _Plan:
        error = run.error or run.state.value
        incident = incident_id(Kind.FAILURE, job.id, error=error)
        summary = failure_line(job.name, error, is_agent=job.spec.kind is WorkKind.AGENT)
        noted = self._incidents.note(
            incident,
            Kind.FAILURE,
            summary,
            now_ms=self._clock.now_ms(),
            job_id=job.id,
            job_name=job.name,
            run_id=run.id,
        )
        is_new = is_worth_telling(noted.count, told=noted.told, is_acked=noted.is_acked)
        if not (is_new or record.again):
            event(_log, "failure.not_told", run=run.id, incident=incident, count=noted.count)
            return _Plan()
        return _Plan(
            parts=self._parts(What.FAILURE, failure_target(job.spec), job),
            text=with_next_step(summary, run.id, count=noted.count),
            incident=incident,
            told=noted.count,
        )

    def _recovery_parts(self, record: Record, run: Run, job: Job) -> tuple[Part, ...]:
        """Close the job's incidents; what was told of them is told to be over."""
        worked_ms = to_ms(run.finished_at or run.queued_at)
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
        # An earlier attempt may have closed them, and died before it planned.
        if not (record.recovery or (closed and text)):
            return ()
        return self._parts(What.RECOVERY, failure_target(job.spec), job)

    def _parts(self, what: What, deliver: str, job: Job | None) -> tuple[Part, ...]:
        origin = job.spec.origin if job else None
        sent = [Part(what=what, target=target) for target in self._book.targets(deliver, origin)]
        lost = [
            Part(
                what=what,
                target=Target(name=name),
                fault=f"no delivery target resolved for deliver={name}",
            )
            for name in self._book.without_target(deliver, origin)
        ]
        return (*sent, *lost)

    def _send_part(self, record: Record, number: int, run: Run | None, job: Job | None) -> str:
        part = (record.parts or ())[number].part
        try:
            send = self._sender(part, record, run, job)
        except DeliveryFault as error:
            send = NoWay(error)
        except StoreError:
            raise
        except HermesCeleryError as error:
            send = NoWay(DeliveryFault(str(error)))
        now_ms = self._clock.now_ms()
        turn = self._deliveries.claim(
            record.id,
            number,
            token=secrets.token_hex(8),
            now_ms=now_ms,
            until_ms=now_ms + int((send.seconds + _MARGIN_SECONDS) * 1000),
        )
        if isinstance(turn, str):
            return turn
        sent, fault = send.run(turn.sent)
        state, next_ms = self._after(turn.attempt, fault)
        standing = self._deliveries.done(
            turn,
            state,
            now_ms=self._clock.now_ms(),
            error=str(fault) if fault else "",
            next_ms=next_ms,
            sent=sent,
        )
        event(
            _log,
            f"delivery.{'retrying' if state is Delivery.PENDING else state.value}",
            level=logging.WARNING if fault else logging.INFO,
            id=record.id,
            to=part.label,
            attempt=turn.attempt,
            error=fault,
        )
        return standing

    def _after(self, attempt: int, fault: DeliveryFault | None) -> tuple[Delivery, int]:
        """What becomes of a part after an attempt, and when it is due again."""
        if fault is None:
            return Delivery.DELIVERED, 0
        if isinstance(fault, DeliveryRefused) or attempt >= MAX_ATTEMPTS:
            return Delivery.FAILED, 0
        wait = wait_seconds(
            attempt,
            first=self._first_wait_seconds,
            jitter=self._jitter(),
            slow_down=fault.slow_down,
        )
        return Delivery.PENDING, self._clock.now_ms() + int(wait * 1000)

    def _sender(self, part: Part, record: Record, run: Run | None, job: Job | None) -> Sender:
        """What sends a part. Raises DeliveryRefused when nothing does."""
        if part.what is What.PING:
            return PingSender(self._ping(part, run), timeout_seconds=self._timeout_seconds)
        message = self._message(part.what, record, run, job)
        return MessageSender(message, self._channels.way_to(part.target), label=part.target.label)

    def _ping(self, part: Part, run: Run | None) -> Ping:
        if run is None:
            raise DeliveryRefused("the run is gone")
        has_failed = run.state in FAILED or run.state is RunState.CANCELLED
        return Ping(
            url=part.target.url,
            signal=Signal.FAIL if has_failed else Signal.SUCCESS,
            run_id=run.id,
            exit_code=run.exit_code,
            body=(run.error or "").encode() if has_failed else self._runs.output(run.id),
        )

    def _message(self, what: What, record: Record, run: Run | None, job: Job | None) -> Message:
        if what is What.RECOVERY:
            return Message(title=job.name if job else "", text=record.recovery)
        if what is not What.OUTPUT or run is None or job is None:
            return Message(title=job.name if job else "hermes-celery", text=record.text)
        output = as_text(self._runs.output(run.id)).strip()
        return message_of(job, run, output, wrap=self._wrap, attachments=self._book.attachments)


def failure_target(spec: JobSpec) -> str:
    """Where a job's troubles are told: its own place for them, else where its output goes."""
    return spec.failure_deliver or spec.deliver


def _kept(parts: tuple[Part, ...], record: Record) -> tuple[Part, ...]:
    """A new plan in which what reached its target before counts as delivered."""
    reached = [
        (state.part.what, state.part.target)
        for state in record.parts or ()
        if state.state is Delivery.DELIVERED
    ]
    return tuple(
        msgspec.structs.replace(part, was_delivered=(part.what, part.target) in reached)
        for part in parts
    )
