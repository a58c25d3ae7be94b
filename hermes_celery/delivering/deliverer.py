"""Deliver a run's outcome to people: plan, claim, send, record. One pass handles one delivery.

A delivery is planned once, when it is sent: the job's targets at that time count, not those when
the job was written. Then each part is claimed, built, sent and recorded separately. Planners and
senders take a claim before they begin, so that an attempt counts even if the process dies. A
delivery that was begun five times without a plan, and a part that was tried ten times, are given
up. Every step has a time limit; a step that takes longer is abandoned (`guards.time_limit`) and
counts as a failed attempt.

A part is sent twice only in two cases: its sender dies between sending and recording, or its sender
is cut off for half a minute from a Redis that others reach. Each such event causes at most one
duplicate, and never a loss. A second copy of a message finds the parts claimed or done. A sender
whose claim has expired gets ten more seconds (`store.deliveries.GRACE_MS`), because after a server
stall all claims have expired. It tries for five minutes to write its result to Redis.

A target that took its whole time and did not answer is paused for a while (`store.breakers`). A
delivery that is due meanwhile counts an attempt without sending, and holds no worker slot. So its
ten attempts end when they would have ended, and dead targets do not occupy all slots.

Delivering never changes the run: its state is final. A failed attempt is repeated with growing,
jittered waits, through the index of deliveries. What cannot succeed is given up at once.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from hermes_celery.core.incidents import FAILED
from hermes_celery.core.run import DeliveryState, Run, RunState, is_run_id
from hermes_celery.core.targets import Target
from hermes_celery.delivering.address_book import AddressBook
from hermes_celery.delivering.attempt import Attempt, ImpossibleAttempt, MessageAttempt, PingAttempt
from hermes_celery.delivering.channels import Channels
from hermes_celery.delivering.dead_man_switch import Ping, PingSignal
from hermes_celery.delivering.plan import DeliveryPlan, DeliverySubject, Planner, note_trouble
from hermes_celery.errors import (
    DeliveryFault,
    DeliveryRefused,
    HermesCeleryError,
    JobNotFound,
    RecordBroken,
    RunNotFound,
    StoreError,
)
from hermes_celery.events import RateLimitedLog, event
from hermes_celery.guards.backoff import backoff, jittered
from hermes_celery.guards.time_limit import Overdue, within
from hermes_celery.store import (
    Breakers,
    Deliveries,
    DeliveryPart,
    DeliveryRecord,
    Incidents,
    Jobs,
    PartContent,
    Runs,
)
from hermes_celery.store.deliveries import MAX_PLANNINGS, SendClaim

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.store import Database

_log = logging.getLogger(__name__)
#: The log event of an attempt and its level, by the new state of the part.
_EVENTS = {
    DeliveryState.DELIVERED: ("delivery.delivered", logging.INFO),
    DeliveryState.PENDING: ("delivery.retrying", logging.WARNING),
    DeliveryState.FAILED: ("delivery.failed", logging.WARNING),
}

MAX_ATTEMPTS = 10
_MAX_WAIT_SECONDS = 3600.0
#: The factor on waits for a target that was called too often.
_SLOW_DOWN = 4
#: How long a claim lasts without renewal, and how often a sender renews it.
_CLAIM_SECONDS, _RENEW_SECONDS = 15.0, 5.0
#: Extra time for sending, beyond the channel's time for each piece.
_MARGIN_SECONDS = 5.0
#: Seconds to keep trying to record an attempt's result while Redis does not accept it.
_DONE_PATIENCE_SECONDS = 300.0
_DONE_RETRY_SECONDS = 1.0
_NEVER_PLANNED = (
    f"it was begun {MAX_PLANNINGS} times and never planned: each time the worker died or took too "
    "long (because of a template, an attachment, or too little memory?)"
)


#: A fault after this share of the timeout means that the target did not answer.
_SILENT = 0.9


class _ClaimLost(Exception):
    """Another sender has the claim on this part now."""


def wait_seconds(attempt: int, *, first: float, jitter: float, slow_down: bool = False) -> float:
    """Return the wait after attempt number `attempt`; `jitter` is a number from 0 to 1."""
    slowed = first * _SLOW_DOWN if slow_down else first
    return jittered(backoff(attempt, first=slowed, most=_MAX_WAIT_SECONDS), jitter)


def state_after(attempt: int, fault: DeliveryFault | None) -> DeliveryState:
    """Return the state of a part after attempt number `attempt`."""
    if fault is None:
        return DeliveryState.DELIVERED
    if isinstance(fault, DeliveryRefused) or attempt >= MAX_ATTEMPTS:
        return DeliveryState.FAILED
    return DeliveryState.PENDING


class DeliveryStores(msgspec.Struct, frozen=True, kw_only=True):
    """The stores that deliveries read and write."""

    deliveries: Deliveries
    incidents: Incidents
    jobs: Jobs
    runs: Runs
    #: Far ends that are paused for now.
    breakers: Breakers

    @classmethod
    def of(cls, database: Database) -> DeliveryStores:
        """Return the stores of one namespace."""
        return cls(
            deliveries=Deliveries(database),
            incidents=Incidents(database),
            jobs=Jobs(database),
            runs=Runs(database),
            breakers=Breakers(database),
        )


class DeliveryRules(msgspec.Struct, frozen=True, kw_only=True):
    """The delivery settings of this process."""

    #: Whether an output gets Hermes' header and footer.
    wrap: bool
    #: The wait before the second attempt; each one after that is twice as long.
    first_wait_seconds: float
    #: The time limit for a target's answer.
    timeout_seconds: float
    #: The time limit for planning, and for building one message; a template may take 20 s of it.
    prepare_seconds: float = 60.0
    #: Returns a number from 0 to 1, called for each wait.
    jitter: Callable[[], float] = random.random


class Deliverer:
    """Delivers in one process."""

    def __init__(
        self,
        stores: DeliveryStores,
        *,
        book: AddressBook,
        channels: Channels,
        rules: DeliveryRules,
        clock: Clock,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._deliveries = stores.deliveries
        self._incidents = stores.incidents
        self._jobs = stores.jobs
        self._runs = stores.runs
        self._breakers = stores.breakers
        self._book = book
        self._channels = channels
        self._rules = rules
        self._clock = clock
        self._pause = pause
        self._planner = Planner(incidents=stores.incidents, clock=clock)

    def deliver(self, delivery_id: str) -> str:
        """Send what is due of one delivery, and return its standing in one word.

        Raises StoreError when Redis fails; what was not recorded is done again. A broken record
        becomes an incident, and is tried again in an hour.
        """
        try:
            return self._deliver(delivery_id)
        except RecordBroken as error:
            now_ms = self._clock.now_ms()
            note_trouble(self._incidents, delivery_id, str(error), now_ms=now_ms)
            self._deliveries.put_off(delivery_id, now_ms=now_ms)
            return "broken"

    def give_up(self, delivery_id: str, why: str) -> None:
        """End the rest of a delivery as failed, and record an incident. Raises StoreError.

        A part that is being sent, or waits for its next attempt, is left alone.
        """
        record, now_ms = self._deliveries.get(delivery_id), self._clock.now_ms()
        subject = self._subject(delivery_id, record)
        if record.parts is None or record.again:
            token = secrets.token_hex(8)
            begun = self._deliveries.begin(delivery_id, token=token, now_ms=now_ms, until_ms=now_ms)
            if begun in ("ok", "spent"):
                plan = self._given_up(record, subject, why)
                self._deliveries.plan(delivery_id, plan.parts, now_ms=now_ms)
            return
        for number, part in enumerate(record.parts):
            found = part.state is DeliveryState.PENDING and self._claim(
                delivery_id, number, token=secrets.token_hex(8)
            )
            if isinstance(found, SendClaim):
                self._deliveries.done(found, DeliveryState.FAILED, now_ms=now_ms, error=why)
                name = subject.job.name if subject.job else ""
                note_trouble(self._incidents, delivery_id, why, now_ms=now_ms, job_name=name)

    def _deliver(self, delivery_id: str) -> str:
        record = self._deliveries.get(delivery_id)
        begun = "planned"
        if record.parts is None or record.again:
            now_ms = self._clock.now_ms()
            begun = self._deliveries.begin(
                delivery_id,
                token=secrets.token_hex(8),
                now_ms=now_ms,
                until_ms=now_ms + int((self._rules.prepare_seconds + _MARGIN_SECONDS) * 1000),
            )
            if begun == "taken":
                return begun
        subject = self._subject(delivery_id, record)
        if is_run_id(delivery_id) and subject.run is None:
            self._deliveries.forget(delivery_id)
            self._deliveries.expire(delivery_id)
            return "gone"
        if begun != "planned" and not self._write_plan(record, subject, is_spent=begun == "spent"):
            return "overdue"
        if begun == "spent":
            return DeliveryState.FAILED.value
        record = self._deliveries.get(delivery_id) if begun != "planned" else record
        standing = "over"
        for number, part in enumerate(record.parts or ()):
            if part.state is DeliveryState.PENDING:
                standing = self._send_part(record, number, subject)
        return standing

    def _subject(self, delivery_id: str, record: DeliveryRecord) -> DeliverySubject:
        run, job = None, None
        try:
            run = self._runs.get(delivery_id) if is_run_id(delivery_id) else None
            job_id = run.job_id if run else record.job_id
            job = self._jobs.get(job_id) if job_id else None
        except (RunNotFound, JobNotFound):
            pass
        return DeliverySubject(
            run, job, runs=self._runs, book=self._book.open(), wrap=self._rules.wrap
        )

    def _write_plan(
        self, record: DeliveryRecord, subject: DeliverySubject, *, is_spent: bool
    ) -> bool:
        """Plan the delivery and store the plan; return False if planning took too long."""
        if is_spent:
            plan = self._given_up(record, subject, _NEVER_PLANNED)
        else:
            try:
                plan = within(
                    self._rules.prepare_seconds, lambda: self._planner.planned(record, subject)
                )
            except Overdue as error:
                # This planning was counted when it began; the next push tries again.
                event(_log, "delivery.overdue", level=logging.ERROR, id=record.id, why=error)
                return False
        for part in plan.parts:
            self._note_lost(record, part, part.fault)
        self._deliveries.plan(
            record.id,
            plan.parts,
            now_ms=self._clock.now_ms(),
            text=plan.text,
            warning=plan.warning,
            told=plan.told,
        )
        return True

    def _given_up(self, record: DeliveryRecord, subject: DeliverySubject, why: str) -> DeliveryPlan:
        """Return a plan with one failed part, for a delivery that will not be planned."""
        note_trouble(
            self._incidents,
            record.id,
            why,
            now_ms=self._clock.now_ms(),
            job_name=subject.job.name if subject.job else "",
        )
        run = subject.run
        what = PartContent.NOTICE if run is None else PartContent.OUTPUT
        if run is not None and run.state in FAILED:
            what = PartContent.FAILURE
        return DeliveryPlan(
            parts=(DeliveryPart(what=what, target=Target(name="(not planned)"), fault=why),)
        )

    def _send_part(self, record: DeliveryRecord, number: int, subject: DeliverySubject) -> str:
        part = (record.parts or ())[number].part
        claim = self._claim(record.id, number, token=secrets.token_hex(8))
        if isinstance(claim, str):
            return claim
        try:
            sent, fault, has_answered = self._attempt_unless_silent(claim, part, record, subject)
        except _ClaimLost as error:
            event(_log, "delivery.claim_lost", level=logging.WARNING, id=record.id, why=error)
            return "taken"
        state = state_after(claim.attempt, fault)
        next_ms = self._next_ms(claim.attempt, fault) if state is DeliveryState.PENDING else 0

        def record_end() -> str:
            return self._deliveries.done(
                claim,
                state,
                now_ms=self._clock.now_ms(),
                error=str(fault) if fault else "",
                next_ms=next_ms,
                sent=sent,
            )

        standing = self._persistently(record_end, delivery_id=record.id)
        self._remember(part, has_answered)
        if state is DeliveryState.FAILED:
            self._note_lost(record, part, str(fault))
        name, level = _EVENTS[state]
        event(
            _log,
            name,
            level=level,
            id=record.id,
            to=part.label,
            attempt=claim.attempt,
            error=fault,
        )
        return standing

    def _note_lost(self, record: DeliveryRecord, part: DeliveryPart, why: str) -> None:
        """Record that a notice reached nobody: no run and no job would show it."""
        if part.what is PartContent.NOTICE and why:
            text = f"the notice did not reach {part.label}: {why}"
            note_trouble(self._incidents, record.id, text, now_ms=self._clock.now_ms())

    def _claim(self, delivery_id: str, number: int, *, token: str) -> SendClaim | str:
        now_ms = self._clock.now_ms()
        return self._deliveries.claim(
            delivery_id,
            number,
            token=token,
            now_ms=now_ms,
            until_ms=now_ms + int(_CLAIM_SECONDS * 1000),
        )

    def _attempt_unless_silent(
        self, claim: SendClaim, part: DeliveryPart, record: DeliveryRecord, subject: DeliverySubject
    ) -> tuple[int, DeliveryFault | None, bool | None]:
        """Make an attempt, or return a fault without one if the target is paused.

        The last value returned is whether the target answered; None if unknown. Raises StoreError.
        """
        far_end = part.target.far_end
        longest_ms = int((2 * self._rules.timeout_seconds + 2 * _MARGIN_SECONDS) * 1000)
        wait_ms = self._breakers.wait_ms(
            far_end, now_ms=self._clock.now_ms(), attempt_ms=longest_ms
        )
        if wait_ms:
            text = f"not tried: {part.label} did not answer lately, so it is paused for now"
            return claim.sent, DeliveryFault(text), None
        began = time.monotonic()
        sent, fault = self._attempt(claim, part, record, subject)
        took = time.monotonic() - began
        if isinstance(fault, DeliveryRefused):
            return sent, fault, None
        return sent, fault, fault is None or took < _SILENT * self._rules.timeout_seconds

    def _remember(self, part: DeliveryPart, has_answered: bool | None) -> None:
        """Store whether a target answered, for other senders. The attempt is recorded already."""
        if has_answered is None:
            return
        tell = self._breakers.answered if has_answered else self._breakers.timed_out
        try:
            tell(part.target.far_end, now_ms=self._clock.now_ms())
        except StoreError as error:
            event(_log, "breaker.not_told", level=logging.WARNING, why=error)

    def _attempt(
        self, claim: SendClaim, part: DeliveryPart, record: DeliveryRecord, subject: DeliverySubject
    ) -> tuple[int, DeliveryFault | None]:
        """Build the message and send it, renewing the claim meanwhile. Raises StoreError."""
        if claim.attempt > MAX_ATTEMPTS:
            return claim.sent, DeliveryRefused(
                f"given up: {MAX_ATTEMPTS} attempts began, and the last one recorded no result"
            )

        def renew() -> None:
            self._renew(claim)

        attempt: Attempt | None = None
        try:
            attempt = within(
                self._rules.prepare_seconds,
                lambda: self._prepared_or_why(part, record, subject),
                every_seconds=_RENEW_SECONDS,
                meanwhile=renew,
            )
            run = attempt.run
            return within(
                attempt.seconds + _MARGIN_SECONDS,
                lambda: run(claim.sent),
                every_seconds=_RENEW_SECONDS,
                meanwhile=renew,
            )
        except Overdue as error:
            sent = attempt.sent if attempt else claim.sent
            return sent, DeliveryFault(f"delivery error: {error}")
        finally:
            if attempt is not None:
                attempt.stop()

    def _renew(self, claim: SendClaim) -> None:
        try:
            answer = self._claim(claim.id, claim.part, token=claim.token)
        except RecordBroken:
            raise
        except StoreError as error:
            # Recording the attempt checks whether the claim is still ours.
            event(_log, "delivery.not_renewed", level=logging.WARNING, id=claim.id, why=error)
            return
        if isinstance(answer, str):
            raise _ClaimLost(f"the claim on part {claim.part} was not renewed: {answer}")

    def _persistently(self, write: Callable[[], str], *, delivery_id: str) -> str:
        """Repeat a write while Redis is unreachable or full, without sending again."""
        deadline = self._clock.monotonic() + _DONE_PATIENCE_SECONDS
        complaint = RateLimitedLog()
        while True:
            try:
                return write()
            except RecordBroken:
                raise
            except StoreError as error:
                if self._clock.monotonic() > deadline:
                    raise
                if complaint.may_say(self._clock.monotonic()):
                    event(_log, "delivery.done_waits", level=logging.WARNING, id=delivery_id,
                          why=error)  # fmt: skip
                self._pause(_DONE_RETRY_SECONDS)

    def _next_ms(self, attempt: int, fault: DeliveryFault | None) -> int:
        """Return when a part is due again after a failed attempt, Unix ms."""
        wait = wait_seconds(
            attempt,
            first=self._rules.first_wait_seconds,
            jitter=self._rules.jitter(),
            slow_down=fault.slow_down if fault else False,
        )
        return self._clock.now_ms() + int(wait * 1000)

    def _prepared_or_why(
        self, part: DeliveryPart, record: DeliveryRecord, subject: DeliverySubject
    ) -> Attempt:
        """Return an attempt that is ready to run, or one that returns its fault.

        Raises StoreError.
        """
        try:
            return self._prepared(part, record, subject)
        except DeliveryFault as error:
            return ImpossibleAttempt(error)
        except StoreError:
            raise
        except HermesCeleryError as error:
            return ImpossibleAttempt(DeliveryFault(str(error)))

    def _prepared(
        self, part: DeliveryPart, record: DeliveryRecord, subject: DeliverySubject
    ) -> Attempt:
        if part.what is PartContent.PING:
            ping = self._ping(part, subject.run)
            return PingAttempt(ping, timeout_seconds=self._rules.timeout_seconds)
        message = subject.message(part.what, record)
        return MessageAttempt(
            message,
            self._channels.way_to(subject.book.addressed(part.target)),
            label=part.target.label,
        )

    def _ping(self, part: DeliveryPart, run: Run | None) -> Ping:
        if run is None:
            raise DeliveryRefused("the run is gone")
        has_failed = run.state in FAILED or run.state is RunState.CANCELLED
        return Ping(
            url=part.target.url,
            signal=PingSignal.FAIL if has_failed else PingSignal.SUCCESS,
            run_id=run.id,
            exit_code=run.exit_code,
            body=(run.error or "").encode() if has_failed else self._runs.output(run.id),
        )
