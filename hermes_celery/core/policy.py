"""What a job wants when things go wrong or meet: late, overlapping, failed, lost.

Values only; `planning` decides with them, and the scripts carry the decisions out.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from hermes_celery.guards.backoff import backoff, jittered

#: `overlap: allow` without a number of its own.
_ALLOWED_AT_ONCE = 10
#: The most that may be asked for.
MAX_ACTIVE = 1000
#: A run that kills its worker each time must not do so for ever.
MAX_LOST_ATTEMPTS = 5


class CatchUp(StrEnum):
    """What happens to occurrences that nobody ticked in time."""

    #: One run for any number of them.
    LATEST = "latest"
    #: A run for each, oldest first, up to a limit.
    ALL = "all"
    #: None, once their grace is over.
    SKIP = "skip"


class Overlap(StrEnum):
    """What happens to an occurrence while an earlier run of the job is queued or running."""

    #: It is recorded as skipped.
    SKIP = "skip"
    #: It runs beside the others, up to `max_active`.
    ALLOW = "allow"
    #: One waits for the other's end; what comes after that one is skipped.
    QUEUE_ONE = "queue_one"
    #: The earlier one is cancelled first.
    REPLACE = "replace"


class OnLost(StrEnum):
    """What happens to a run whose worker vanished in the middle."""

    #: It is over: at most once started.
    FAIL = "fail"
    #: It is started again: at least once.
    RETRY = "retry"


class Policy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One job's choices; the defaults are Hermes' behaviour."""

    catch_up: CatchUp = CatchUp.LATEST
    catch_up_limit: int = 100
    #: How late is still on time; None: half a period within 120 s and 2 h.
    grace_seconds: int | None = None
    #: A run that no worker took so long after its instant is dropped.
    expires_seconds: int | None = None
    overlap: Overlap = Overlap.SKIP
    #: For `overlap: allow`.
    max_active: int | None = None
    #: Further attempts after a failed one.
    retries: int = 0
    #: The wait before the first of them; each further one is twice as long.
    retry_wait_seconds: int = 30
    #: The longest wait between two attempts.
    retry_max_seconds: int = 3600
    #: None: as its Celery task says it (`acks_late` with `reject_on_worker_lost`), else `fail`.
    on_lost: OnLost | None = None
    #: The job is paused after so many failed runs in a row.
    pause_after: int | None = None

    @property
    def most_active(self) -> int:
        """How many runs of the job may be active at once."""
        if self.overlap is Overlap.ALLOW:
            return self.max_active or _ALLOWED_AT_ONCE
        return 1

    @property
    def most_held(self) -> int:
        """How many more may wait for one of those to end."""
        waits = 1 if self.overlap in (Overlap.QUEUE_ONE, Overlap.REPLACE) else 0
        return max(waits, self.catch_up_limit if self.catch_up is CatchUp.ALL else 0)


def retry_wait_ms(policy: Policy, *, attempt: int, jitter: float) -> int:
    """How long to wait after attempt number `attempt`; `jitter` is a number from 0 to 1."""
    wait = backoff(attempt, first=policy.retry_wait_seconds, most=policy.retry_max_seconds)
    return int(jittered(wait * 1000, jitter))


def retries_failure(policy: Policy, *, attempt: int) -> bool:
    """Whether a run whose attempt number `attempt` failed gets another."""
    return attempt <= policy.retries


def retries_loss(policy: Policy, *, attempt: int, task_wants_it: bool = False) -> bool:
    """Whether a run that was lost in attempt number `attempt` gets another.

    `task_wants_it` where the job does not say: whether its Celery task is to run again.
    """
    wants_it = task_wants_it if policy.on_lost is None else policy.on_lost is OnLost.RETRY
    return wants_it and attempt < max(MAX_LOST_ATTEMPTS, policy.retries + 1)
