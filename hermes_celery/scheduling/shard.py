"""One shard of the due index as one beat sees it: its lease, its ticks and its upcoming steps.

A due index that is not split has one shard, number 0, with all jobs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from hermes_celery.errors import LeaseLost
from hermes_celery.events import event
from hermes_celery.guards.contained_duty import Duty
from hermes_celery.guards.on_broken import OnBroken, ignored
from hermes_celery.scheduling.look_ahead import LookAhead
from hermes_celery.scheduling.tick import Ticker, TickReport

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.scheduling.lease import Lease
    from hermes_celery.scheduling.planned_runs import BuildsMessages
    from hermes_celery.store import DueIndex

_log = logging.getLogger(__name__)
#: Planning ahead stops this many milliseconds before a job is due; one slice takes about 2 ms.
_GUARD_MS = 3
#: Neither leading nor standing by yet.
_UNKNOWN = -1


class Shard:
    """One beat's view of one shard."""

    def __init__(
        self,
        number: int,
        *,
        lease: Lease,
        due_index: DueIndex,
        messages: BuildsMessages,
        clock: Clock,
        on_broken: OnBroken = ignored,
    ) -> None:
        self.number = number
        self._lease = lease
        self._due_index = due_index
        self._clock = clock
        self._ahead = LookAhead(due_index, messages)
        self._ticker = Ticker(due_index, messages, ahead=self._ahead)
        self._on_broken = on_broken
        #: Duties keep faults apart: a shard whose keys or jobs make a tick fail waits alone.
        self.leading = Duty(f"lead shard {number}", clock=clock, on_broken=on_broken,
                            lets_refusals_pass=True)  # fmt: skip
        self._ticking = Duty(f"tick shard {number}", clock=clock, on_broken=on_broken,
                            lets_refusals_pass=True)  # fmt: skip
        self._looking = Duty(f"plan shard {number} ahead", clock=clock, on_broken=on_broken,
                            lets_refusals_pass=True)  # fmt: skip
        #: The last announced term; None: standing by.
        self._announced: int | None = _UNKNOWN
        #: The earliest known due instant, Unix ms; None if no job is planned.
        self._next_due_ms: int | None = None
        #: When this beat took the lead, or Redis came back; monotonic seconds.
        self._leads_since = 0.0

    @property
    def token(self) -> int | None:
        """The fencing token while this beat leads the shard; None otherwise."""
        return self._lease.token

    @property
    def free_in_seconds(self) -> float:
        """Seconds until another beat's lease expires if its holder is dead."""
        return self._lease.free_in_seconds

    def hold(self) -> bool:
        """Take or renew the lease; return whether this beat has just become the shard's leader.

        Raises StoreUnavailable.
        """
        token = self._lease.hold()
        return token != self._announced and token is not None

    def announce_change(self) -> None:
        """Log a change of leadership, after the work that belongs to it is done."""
        token = self._lease.token
        if token == self._announced:
            return
        self.was_cut_off()
        self._ahead.forget()
        shown = self.number or None
        event(_log, "beat.leads" if token else "beat.stands_by", term=token, shard=shown)
        self._announced = token

    def leave(self) -> None:
        """Stop leading, so that another beat takes over at once. Raises StoreUnavailable."""
        self._lease.release()
        self._ahead.forget()

    def was_cut_off(self) -> None:
        """Restart `leads_for_seconds`: Redis was unreachable, for the workers as well."""
        self._leads_since = self._clock.monotonic()

    @property
    def leads_for_seconds(self) -> float:
        """Seconds since this beat took the lead, or since Redis came back."""
        return self._clock.monotonic() - self._leads_since

    @contextmanager
    def fenced(self) -> Iterator[None]:
        """Run a leader's work; a lost lease is logged and ends the leadership without an error."""
        try:
            yield
        except LeaseLost as error:
            event(_log, "tick.fenced", level=logging.WARNING, why=error)
            self._lease.drop()

    def tick(self, *, most: int) -> TickReport | None:
        """Dispatch up to `most` due jobs; return None if none was due, or after a fault.

        Raises LeaseLost and StoreError as `Ticker.tick` does.
        """
        return self._ticking.attempt(partial(self._tick, most=most), None)

    def _tick(self, *, most: int) -> TickReport | None:
        self._next_due_ms = self._due_index.next_due_ms()
        if self._next_due_ms is None or self._next_due_ms > self._clock.now_ms():
            return None
        report = self._ticker.tick(
            token=self._lease.require(), now_ms=self._clock.now_ms(), most=most
        )
        self._next_due_ms = report.next_due_ms
        for fault in report.faults:
            if not fault.is_gone:
                self._on_broken(fault.job_id, "", fault.error)
        if report.paused:
            self._ahead.forget()
        return report

    @property
    def seconds_until_due(self) -> float:
        """Seconds until the earliest known job is due; infinite if none is known."""
        if self._next_due_ms is None:
            return float("inf")
        due_in = (self._next_due_ms - self._clock.now_ms()) / 1000
        return max(due_in, self._ticking.waits_seconds, 0.0)

    @property
    def is_due(self) -> bool:
        """True if a known job is due."""
        return self.seconds_until_due == 0.0

    def look_ahead(self, *, until_ms: int) -> bool:
        """Prepare upcoming steps until an instant; return whether there are more to prepare."""
        return self._looking.attempt(partial(self._look_ahead, until_ms=until_ms), False)

    def _look_ahead(self, *, until_ms: int) -> bool:
        if self._next_due_ms is not None:
            until_ms = min(until_ms, self._next_due_ms - _GUARD_MS)
        now_ms = self._clock.now_ms()
        while now_ms < until_ms:
            if not self._ahead.look(now_ms):
                return False
            now_ms = self._clock.now_ms()
        return self._next_due_ms is None or now_ms < self._next_due_ms - _GUARD_MS
