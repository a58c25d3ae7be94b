"""Concurrency groups and budgets: what a claimed run needs in addition to its claim.

A run of a job with a group takes one of the group's places after its claim. If none is free, the
claim is returned: the run is queued again, and the leader pushes its message a second or more
later, as for any queued run whose message was lost. So a full group occupies neither a worker's
slot nor a message with a countdown. Waiting runs are not served in order: the first to ask for a
free place gets it. A place is free again when its run ends or its heartbeat stops.
"""

from __future__ import annotations

from hermes_celery.core.run import Usage
from hermes_celery.instant import from_ms
from hermes_celery.store.database import Database, or_none
from hermes_celery.store.runs import Claim

_MIN_WAIT_MS = 1_000
_MAX_WAIT_MS = 10_000


class RunLimits:
    """Grants places in concurrency groups and books usage on budgets, in one namespace."""

    def __init__(self, database: Database, *, heartbeat_timeout_ms: int = 15_000) -> None:
        self._database = database
        self._keys = database.keys
        self._heartbeat_timeout_ms = heartbeat_timeout_ms

    def enter(self, claim: Claim, *, now_ms: int) -> str:
        """Take a place for a claimed run.

        Returns `ok`, `full` (no place is free, the run is queued again) or `late` (the claim was
        lost).
        """
        if claim.spec.group_limit is None:
            return "ok"
        return str(
            self._database.run(
                "enter_group",
                keys={
                    "run": self._keys.run(claim.run_id),
                    "active": self._keys.active(claim.spec.id),
                    "queued": self._keys.queued,
                    "heartbeats": self._keys.heartbeats,
                    "group": self._keys.group(claim.group),
                },
                args={
                    "token": claim.token,
                    "run_id": claim.run_id,
                    "now_ms": now_ms,
                    "deadline_ms": now_ms + self._heartbeat_timeout_ms,
                    "slots": claim.spec.group_limit,
                    "again_ms": now_ms + _wait_ms(now_ms - claim.due_ms),
                },
            )
        )

    def leave(self, claim: Claim) -> None:
        """Free the place of a run."""
        if claim.spec.group_limit is not None:
            self._database.call("ZREM", self._keys.group(claim.group), claim.run_id)

    def spend(self, claim: Claim, usage: Usage, *, now_ms: int) -> str:
        """Add a claimed run's usage to its job's total of the day (UTC).

        A repeated call adds nothing. Returns `paused` if that used up the day's budget, so that the
        job was paused.
        """
        keys, spec = self._keys, claim.spec
        answer = self._database.run(
            "spend",
            keys={
                "run": keys.run(claim.run_id),
                "job": keys.job(spec.id),
                "due": self._database.due_key(spec.id),
            },
            args={
                "token": claim.token,
                "job_id": spec.id,
                "day": from_ms(now_ms).date().isoformat(),
                "tokens": usage.tokens,
                "cost": f"{usage.cost_usd:.8f}",
                "token_budget": or_none(spec.token_budget),
                "cost_budget": "" if spec.cost_budget is None else f"{spec.cost_budget:g}",
                "now_ms": now_ms,
                "attempt": claim.attempt,
            },
        )
        return str(answer)


def _wait_ms(age_ms: int) -> int:
    """Return a tenth of the run's age, within limits: long queues are asked less often."""
    return min(max(age_ms // 10, _MIN_WAIT_MS), _MAX_WAIT_MS)
