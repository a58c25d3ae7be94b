"""Keep the recurring duties of a process apart, so that one failing duty does not stop the others.

A failed duty is tried again, each time after twice the wait, up to a minute, while the others go
on. The failure is logged at once and then once a minute, with a traceback if the error was not
foreseen. If such an error comes three times in a row, it is reported like a broken record, so that
it becomes an incident. A lost connection and a lost lease are not failures of a duty; they are
raised to the caller, which leads or stands by.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from hermes_celery.errors import (
    HermesCeleryError,
    LeaseLost,
    RecordBroken,
    StoreError,
    StoreUnavailable,
    error_text,
)
from hermes_celery.events import RateLimitedLog, event
from hermes_celery.guards.backoff import backoff
from hermes_celery.guards.on_broken import OnBroken, ignored

if TYPE_CHECKING:
    from hermes_celery.clock import Clock

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

FIRST_WAIT_SECONDS = 0.5
MOST_WAIT_SECONDS = 60.0
#: Unforeseen failures in a row after which a duty is reported.
REPORTED_FAILURES = 3


class Duty:
    """One recurring duty of a process."""

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        on_broken: OnBroken = ignored,
        lets_refusals_pass: bool = False,
    ) -> None:
        """Make a duty.

        With `lets_refusals_pass`, an error of the whole server (out of memory, read-only) is raised
        to the caller as a lost connection is.
        """
        self._name = name
        self._clock = clock
        self._on_broken = on_broken
        self._passing = (LeaseLost, StoreError if lets_refusals_pass else StoreUnavailable)
        self._complaint = RateLimitedLog()
        self._failures = 0
        self._again_at = 0.0

    @property
    def waits_seconds(self) -> float:
        """Seconds until the duty may be tried again after a failure; 0 if it may be done now."""
        if not self._failures:
            return 0.0
        return max(self._again_at - self._clock.monotonic(), 0.0)

    def attempt(self, work: Callable[[], _T], otherwise: _T) -> _T:
        """Return the result of `work`.

        Returns `otherwise` if `work` fails, or while its next attempt waits after a failure.

        Raises errors that are not the duty's: StoreUnavailable and LeaseLost.
        """
        if self.waits_seconds:
            return otherwise
        try:
            done = work()
        except RecordBroken as error:
            self._on_broken("", error.key, error.what)
            self._failed(error)
            return otherwise
        except self._passing:
            raise
        except Exception as error:  # noqa: BLE001 - an unforeseen error ends only this attempt
            self._failed(error)
            return otherwise
        self._failures = 0
        if self._complaint.over():
            event(_log, "duty.recovered", duty=self._name)
        return done

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        wait = backoff(self._failures, first=FIRST_WAIT_SECONDS, most=MOST_WAIT_SECONDS)
        self._again_at = self._clock.monotonic() + wait
        if self._failures >= REPORTED_FAILURES and not isinstance(error, HermesCeleryError):
            what = f"fails again and again, and its log says more: {error_text(error)}"
            self._on_broken("", f"the duty '{self._name}'", what)
        if self._complaint.may_say(self._clock.monotonic()):
            event(
                _log,
                "duty.failed",
                level=logging.ERROR,
                exc_info=None if isinstance(error, StoreError) else error,
                duty=self._name,
                why=error_text(error),
                again_in=f"{wait:g} s",
            )
