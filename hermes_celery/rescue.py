"""Runs that nobody carries any more: queued but never started, started but never finished.

A message can vanish (a worker dies with it in hand, a failover forgets it): a run that stays queued
is pushed again, each time after twice the wait; the claim makes a second copy harmless. A worker
can vanish: a run whose heartbeat stopped becomes `lost`, so that its job is free again, or queued
for its next attempt if its job wants `on_lost: retry`. Waits between attempts are deadlines of the
same kind, so a retry is just a run that is pushed later.

Only the leader rescues, with its fencing token, and only some seconds after it took over: workers
that were cut off together with it first get the chance to say that they are alive.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

import msgspec

from hermes_celery.instant import to_ms
from hermes_celery.log import event
from hermes_celery.policy import retries_loss, retry_wait_ms

if TYPE_CHECKING:
    from hermes_celery.preparing import Messages
    from hermes_celery.store import Jobs, Runs

_log = logging.getLogger(__name__)
#: Each costs the beat a tenth of a millisecond, in which it cannot dispatch.
_BATCH = 50
LOST = "the worker died or was cut off: its heartbeat stopped"


class RescueReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one pass did."""

    redelivered: int = 0
    lost: int = 0

    @property
    def has_more(self) -> bool:
        """Whether another pass at once would find more."""
        return max(self.redelivered, self.lost) >= _BATCH


def rescue(jobs: Jobs, runs: Runs, messages: Messages, *, token: int, now_ms: int) -> RescueReport:
    """One pass over overdue runs, up to 50 of each kind.

    Raises LeaseLost when a younger leader has taken over.
    """
    return RescueReport(
        redelivered=_redeliver(jobs, runs, messages, token=token, now_ms=now_ms),
        lost=_give_up_silent(runs, token=token, now_ms=now_ms),
    )


def _redeliver(jobs: Jobs, runs: Runs, messages: Messages, *, token: int, now_ms: int) -> int:
    pushed = 0
    overdue = runs.undelivered_since(now_ms, limit=_BATCH)
    specs = jobs.specs({run.job_id for run, _ in overdue})
    for run, seen_ms in overdue:
        spec = specs.get(run.job_id)
        if spec is None:
            runs.cancel(
                run.id, reason="the job was removed, or cannot be read", now_ms=now_ms, token=token
            )
            continue
        if run.expires_at is not None and to_ms(run.expires_at) < now_ms:
            runs.expire(run.id, now_ms=now_ms, token=token)
            continue
        due_ms = to_ms(run.due_at)
        try:
            message = messages.message(spec, run_id=run.id, due_ms=due_ms, attempt=run.attempt)
        except Exception as error:  # noqa: BLE001 - one bad job must not stop the others
            why = f"its message cannot be built: {error}"
            runs.cancel(run.id, reason=why, now_ms=now_ms, token=token)
            event(_log, "run.cancelled", level=logging.ERROR, run=run.id, why=why)
            continue
        if runs.redeliver(
            run,
            seen_ms=seen_ms,
            now_ms=now_ms,
            token=token,
            queue=messages.queue(spec),
            message=message,
        ):
            event(_log, "run.redelivered", run=run.id, job=run.job_name)
            pushed += 1
    return pushed


def _give_up_silent(runs: Runs, *, token: int, now_ms: int) -> int:
    lost = 0
    for run_id in runs.silent_since(now_ms, limit=_BATCH):
        policy, attempt = runs.policy_of(run_id)
        retry_at_ms = None
        if retries_loss(policy, attempt=attempt):
            wait = retry_wait_ms(policy, attempt=attempt, jitter=random.random())
            retry_at_ms = now_ms + wait
        answer = runs.lose(run_id, error=LOST, token=token, now_ms=now_ms, retry_at_ms=retry_at_ms)
        if answer != "alive":
            event(_log, "run.lost", level=logging.WARNING, run=run_id, then=answer)
            lost += 1
    return lost
