"""Concurrency groups and budgets: what a claimed run needs besides its claim.

A job with `max_active` takes a place of its group (or of itself) after its claim. Where none is
free the claim is given back: the run is queued again and its message is pushed a second or more
later by the leader, as that of any queued run whose message vanished. So a full group holds neither
a worker's slot nor a message with a countdown. Waiting runs are not served in order: whoever asks
first after a place became free gets it. A place ends with its run, or with its heartbeat.
"""

from __future__ import annotations

import msgspec

from hermes_celery.instant import from_ms
from hermes_celery.run import Usage
from hermes_celery.store.database import Database
from hermes_celery.store.runs import Claim

_MIN_WAIT_MS = 1_000
_MAX_WAIT_MS = 10_000


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What was booked, and whether that was the end of it."""

    word: str

    @property
    def paused(self) -> bool:
        """Whether the job was paused by this."""
        return self.word == "paused"


class Places:
    """The concurrency groups and budgets of one namespace."""

    def __init__(self, database: Database, *, heartbeat_timeout_ms: int = 15_000) -> None:
        self._database = database
        self._keys = database.keys
        self._heartbeat_timeout_ms = heartbeat_timeout_ms

    def enter(self, claim: Claim, *, now_ms: int) -> str:
        """Take a place for a claimed run: `ok`, `full` (it waits in line again) or `late`."""
        if claim.spec.max_active is None:
            return "ok"
        return str(
            self._database.run(
                "enter_group",
                keys=[*self._run_keys(claim), self._keys.group(claim.group)],
                args=[
                    claim.token,
                    claim.run_id,
                    now_ms,
                    now_ms + self._heartbeat_timeout_ms,
                    claim.spec.max_active,
                    now_ms + _wait_ms(now_ms - claim.due_ms),
                ],
            )
        )

    def leave(self, claim: Claim) -> None:
        """Give the place back."""
        if claim.spec.max_active is not None:
            self._database.call("ZREM", self._keys.group(claim.group), claim.run_id)

    def put_back(self, claim: Claim, *, ready_at_ms: int) -> bool:
        """Give a claim back: the run is queued, its message is pushed at that instant at the latest.

        False when the claim is no longer ours.
        """
        answer = self._database.run(
            "put_back",
            keys=self._run_keys(claim),
            args=[claim.token, claim.run_id, ready_at_ms],
        )
        return bool(answer == "ok")

    def spend(self, claim: Claim, usage: Usage, *, now_ms: int) -> Budget:
        """Book what a claimed run used on its job's day (UTC); booking twice counts once."""
        keys, spec = self._keys, claim.spec
        answer = self._database.run(
            "spend",
            keys=[keys.run(claim.run_id), keys.job(spec.id), keys.due],
            args=[
                claim.token,
                spec.id,
                from_ms(now_ms).date().isoformat(),
                usage.tokens,
                f"{usage.cost_usd:.8f}",
                "" if spec.token_budget is None else spec.token_budget,
                "" if spec.cost_budget is None else f"{spec.cost_budget:g}",
                now_ms,
                claim.attempt,
            ],
        )
        return Budget(word=str(answer))

    def _run_keys(self, claim: Claim) -> list[str]:
        keys = self._keys
        return [keys.run(claim.run_id), keys.active(claim.spec.id), keys.queued, keys.heartbeats]


def _wait_ms(age_ms: int) -> int:
    """A tenth of how late it is already: long queues are asked less often."""
    return min(max(age_ms // 10, _MIN_WAIT_MS), _MAX_WAIT_MS)
