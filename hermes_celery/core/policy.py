"""A job's policy: what to do with late, overlapping, failed and lost runs.

Values only. `planning` decides with them, and the scripts carry the decisions out.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from hermes_celery.guards.backoff import backoff, jittered

#: Runs at the same time under `overlap: allow`, unless the job sets `max_active`.
_ALLOWED_AT_ONCE = 10
#: Upper limit of `max_active`.
MAX_ACTIVE = 1000
#: Attempts of a run that is lost again and again, so that it does not kill workers for ever.
MAX_LOST_ATTEMPTS = 5


class CatchUp(StrEnum):
    """The rule for missed occurrences: those for which no beat ticked in time."""

    #: The latest missed occurrence runs, once.
    LATEST = "latest"
    #: Each missed occurrence runs, oldest first, up to a limit.
    ALL = "all"
    #: Occurrences that are later than their grace do not run.
    SKIP = "skip"


class Overlap(StrEnum):
    """The rule for an occurrence while an earlier run of the job is queued or running."""

    #: The occurrence is recorded as skipped.
    SKIP = "skip"
    #: It runs beside the earlier runs, up to `max_active`.
    ALLOW = "allow"
    #: One occurrence waits for the earlier run to end; further occurrences are skipped.
    QUEUE_ONE = "queue_one"
    #: The earlier run is cancelled, then the occurrence runs.
    REPLACE = "replace"


class OnLost(StrEnum):
    """The rule for a run whose worker died while it was running."""

    #: The run ends: it is started at most once.
    FAIL = "fail"
    #: The run is started again: it is started at least once.
    RETRY = "retry"


class Policy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The policy of one job; the defaults are Hermes' behaviour."""

    catch_up: CatchUp = CatchUp.LATEST
    catch_up_limit: int = 100
    #: How late an occurrence still is on time; None: half a period, within 120 s and 2 h.
    grace_seconds: int | None = None
    #: A run that no worker has started by this time after its due time is skipped; None: never.
    expires_seconds: int | None = None
    overlap: Overlap = Overlap.SKIP
    #: Runs at the same time, with `overlap: allow`.
    max_active: int | None = None
    #: Further attempts after a failed one.
    retries: int = 0
    #: The wait before the first further attempt; each later wait is twice as long.
    retry_wait_seconds: int = 30
    #: The longest wait between two attempts.
    retry_max_seconds: int = 3600
    #: None: as its Celery task sets it (`acks_late` with `reject_on_worker_lost`), else `fail`.
    on_lost: OnLost | None = None
    #: The job is paused after this number of failed runs in a row; None: never.
    pause_after: int | None = None

    @property
    def most_active(self) -> int:
        """The largest number of runs of the job that may be active at the same time."""
        if self.overlap is Overlap.ALLOW:
            return self.max_active or _ALLOWED_AT_ONCE
        return 1

    @property
    def most_held(self) -> int:
        """Further runs that may wait for an active run to end."""
        waits = 1 if self.overlap in (Overlap.QUEUE_ONE, Overlap.REPLACE) else 0
        return max(waits, self.catch_up_limit if self.catch_up is CatchUp.ALL else 0)


def retry_wait_ms(policy: Policy, *, attempt: int, jitter: float) -> int:
    """Return the wait after attempt number `attempt`; `jitter` is a number from 0 to 1."""
    wait = backoff(attempt, first=policy.retry_wait_seconds, most=policy.retry_max_seconds)
    return int(jittered(wait * 1000, jitter))


def retries_failure(policy: Policy, *, attempt: int) -> bool:
    """Return whether a run whose attempt number `attempt` failed gets another attempt."""
    return attempt <= policy.retries


def retries_loss(policy: Policy, *, attempt: int, task_wants_it: bool = False) -> bool:
    """Return whether a run that was lost in attempt number `attempt` gets another attempt.

    `task_wants_it` says whether the run's Celery task asks for one; it decides if the job does not.
    """
    wants_it = task_wants_it if policy.on_lost is None else policy.on_lost is OnLost.RETRY
    return wants_it and attempt < max(MAX_LOST_ATTEMPTS, policy.retries + 1)
