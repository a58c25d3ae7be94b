"""Begin deliveries: with a run's end, and again when they are due.

A run's delivery is decided before its end is written, so that both are written in one step. The
leader pushes the message of every delivery that is due: after lost runs, failed attempts, and
senders that died.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Protocol

from hermes_celery.core.answers import is_silent
from hermes_celery.core.incidents import FAILED
from hermes_celery.core.job import JobSpec
from hermes_celery.core.output import as_text
from hermes_celery.core.run import DeliveryState, Outcome, Run, RunState, is_run_id, job_id_of
from hermes_celery.delivering.dead_man_switch import Ping, Pinger, PingSignal
from hermes_celery.errors import JobError, RecordBroken, StoreError, StoreUnavailable
from hermes_celery.events import event
from hermes_celery.guards.on_broken import OnBroken, ignored
from hermes_celery.store import Claim, FollowUp

if TYPE_CHECKING:
    from hermes_celery.store import Deliveries

_log = logging.getLogger(__name__)
_BATCH = 100
#: Characters that no delivery's id contains, and that must not get into a message's JSON.
_NO_ID = re.compile(r"""["\\\x00-\x1f\x7f\ud800-\udfff]""")


class DeliveryMessages(Protocol):
    """Builds the Celery messages of deliveries, such as `messages.MessageBuilder`."""

    def delivery_queue(self) -> str:
        """Return the queue of delivery messages."""

    def delivery_message(self, delivery_id: str, *, label: str, push: int = 0) -> bytes:
        """Return the message of one delivery; a new `push` number gives it a new message id."""


class RunAnnouncer:
    """Pings at a run's start, and begins the delivery at its end; for `runner.Runner`."""

    def __init__(self, messages: DeliveryMessages, *, pinger: Pinger) -> None:
        self._messages = messages
        self._pinger = pinger

    def started(self, claim: Claim) -> None:
        """Ping the job's dead-man switch, if it has one, without waiting."""
        if claim.spec.ping:
            self._pinger.send(
                Ping(url=claim.spec.ping, signal=PingSignal.START, run_id=claim.run_id)
            )

    def follow_up(self, claim: Claim, outcome: Outcome) -> FollowUp:
        """Return the first delivery state, and the message to push."""
        state = first_state(claim.spec, outcome)
        return FollowUp(
            delivery=state,
            is_needed=state is DeliveryState.PENDING or claim.spec.ping is not None,
            queue=self._messages.delivery_queue(),
            message=self._messages.delivery_message(claim.run_id, label=claim.spec.name),
        )


def first_state(spec: JobSpec, outcome: Outcome) -> DeliveryState:
    """Return the delivery state at the run's end. Failures are always sent; silence never is."""
    if outcome.state in FAILED:
        return DeliveryState.PENDING
    if outcome.state is not RunState.SUCCEEDED:
        return DeliveryState.NONE
    if outcome.silent or is_silent(as_text(outcome.output)):
        return DeliveryState.SILENT
    if spec.deliver == "local" or not outcome.output.strip():
        return DeliveryState.NONE
    return DeliveryState.PENDING


def push_due(
    deliveries: Deliveries,
    messages: DeliveryMessages,
    *,
    token: int,
    now_ms: int,
    on_broken: OnBroken = ignored,
) -> int:
    """Push the messages of up to 100 due deliveries; return how many were pushed.

    `on_broken` gets each delivery that cannot be pushed. An invalid delivery id is removed from the
    index. Raises LeaseLost when a newer leader has taken over. Raises StoreError if Redis refused
    one, after the others were pushed.
    """
    pushed = 0
    trouble: StoreError | None = None
    due = deliveries.due(now_ms, limit=_BATCH)
    names = deliveries.job_names([delivery_id for delivery_id, _ in due])
    for delivery_id, seen_ms in due:
        if _NO_ID.search(delivery_id):
            on_broken("", f"delivery {delivery_id!r}", "is not a valid delivery id; it was removed")
            deliveries.forget(delivery_id)
            continue
        label = names.get(delivery_id) or (
            job_id_of(delivery_id) if is_run_id(delivery_id) else "notice"
        )
        try:
            is_pushed = deliveries.push(
                delivery_id,
                seen_ms=seen_ms,
                now_ms=now_ms,
                token=token,
                queue=messages.delivery_queue(),
                message=messages.delivery_message(delivery_id, label=label, push=seen_ms),
            )
        except RecordBroken as error:
            on_broken("", error.key, error.what)
            continue
        except StoreUnavailable:
            raise
        except StoreError as error:
            trouble = trouble or error
            continue
        if is_pushed:
            event(_log, "delivery.pushed", id=delivery_id)
            pushed += 1
    if trouble is not None:
        raise trouble
    return pushed


def redeliver(
    run: Run, deliveries: Deliveries, messages: DeliveryMessages, *, everywhere: bool, now_ms: int
) -> None:
    """Deliver a run's output once more, to the targets that its job has now.

    Unless `everywhere`, targets that got the output before are left out. Raises JobError when there
    is nothing to deliver.
    """
    if run.state is RunState.SUCCEEDED and not run.output_bytes:
        raise JobError(f"run {run.id} printed nothing, so there is nothing to deliver")
    if run.state not in (RunState.SUCCEEDED, *FAILED) or not deliveries.again(
        run.id,
        mode="all" if everywhere else "failed",
        now_ms=now_ms,
        queue=messages.delivery_queue(),
        message=messages.delivery_message(run.id, label=run.job_name, push=now_ms),
    ):
        raise JobError(f"run {run.id} is {run.state.value}; only a finished run can be delivered")
