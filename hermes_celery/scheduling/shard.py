"""One shard of the due index, as one beat sees it: the right to tick it, and what comes next in it.

Where the due index is not split there is one, number 0, with all jobs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hermes_celery.events import event
from hermes_celery.guards.duty import Duty
from hermes_celery.guards.on_broken import OnBroken, ignored
from hermes_celery.scheduling.look_ahead import LookAhead
from hermes_celery.scheduling.tick import TickReport, tick

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.scheduling.lease import Lease
    from hermes_celery.scheduling.planned_runs import BuildsMessages
    from hermes_celery.store import DueIndex

_log = logging.getLogger(__name__)
#: So long before something is due nothing is planned ahead: a slice takes about 2 ms.
_GUARD_MS = 3
#: Neither leading nor standing by yet.
_UNKNOWN = -1


class Shard:
    """A beat's part in one shard."""

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
        self._messages = messages
        self._clock = clock
        self._ahead = LookAhead(due_index, messages)
        self._on_broken = on_broken
        #: A shard whose keys, or whose jobs, make a tick fail waits; the others go on.
        self.leading = Duty(f"lead shard {number}", clock=clock, on_broken=on_broken,
                            lets_refusals_pass=True)  # fmt: skip
        self.ticking = Duty(f"tick shard {number}", clock=clock, on_broken=on_broken,
                            lets_refusals_pass=True)  # fmt: skip
        self.looking = Duty(f"plan shard {number} ahead", clock=clock, on_broken=on_broken,
                            lets_refusals_pass=True)  # fmt: skip
        self._noted: int | None = _UNKNOWN
        #: The earliest instant that is known to be due, Unix ms; None: nothing is.
        self.next_due_ms: int | None = None
        #: Since when it is led, or Redis is back; monotonic seconds.
        self.leads_since = 0.0

    @property
    def token(self) -> int | None:
        """The fencing token while this beat leads the shard; None otherwise."""
        return self._lease.token

    @property
    def free_in_seconds(self) -> float:
        """How long somebody else's lease lasts if its holder is dead."""
        return self._lease.free_in_seconds

    def hold(self) -> bool:
        """Take the lease or renew it; whether that made this beat the shard's leader just now.

        Raises StoreUnavailable.
        """
        token = self._lease.hold()
        return token != self._noted and token is not None

    def note(self) -> None:
        """Tell of a change of leadership, once what had to be done with it is done."""
        token = self._lease.token
        if token == self._noted:
            return
        self.leads_since = self._clock.monotonic()
        self._ahead.forget()
        shown = self.number or None
        event(_log, "beat.leads" if token else "beat.stands_by", term=token, shard=shown)
        self._noted = token

    def leave(self) -> None:
        """Stop leading, so that another beat takes over at once. Raises StoreUnavailable."""
        self._lease.release()
        self._ahead.forget()

    def tick(self, *, most: int) -> TickReport | None:
        """Dispatch up to `most` jobs, if any is due; None when none was.

        Raises LeaseLost and StoreError as `tick.tick` does.
        """
        self.next_due_ms = self._due_index.next_due_ms()
        if self.next_due_ms is None or self.next_due_ms > self._clock.now_ms():
            return None
        report = tick(
            self._due_index,
            self._messages,
            token=self._lease.require(),
            now_ms=self._clock.now_ms(),
            ahead=self._ahead,
            most=most,
        )
        self.next_due_ms = report.next_due_ms
        for fault in report.faults:
            if not fault.is_gone:
                self._on_broken(fault.job_id, "", fault.error)
        if report.paused:
            self._ahead.forget()
        return report

    @property
    def seconds_until_due(self) -> float:
        """How long there is nothing to tick, as far as is known."""
        if self.next_due_ms is None:
            return float("inf")
        due_in = (self.next_due_ms - self._clock.now_ms()) / 1000
        return max(due_in, self.ticking.waits_seconds, 0.0)

    @property
    def is_due(self) -> bool:
        """Whether something is due, as far as is known."""
        return self.seconds_until_due == 0.0

    def forget(self) -> None:
        """Believe no longer to lead."""
        self._lease.forget()

    def look_ahead(self, *, until_ms: int) -> bool:
        """Prepare what is coming until an instant; whether there is more to prepare."""
        if self.next_due_ms is not None:
            until_ms = min(until_ms, self.next_due_ms - _GUARD_MS)
        now_ms = self._clock.now_ms()
        while now_ms < until_ms:
            if not self._ahead.look(now_ms):
                return False
            now_ms = self._clock.now_ms()
        return self.next_due_ms is None or now_ms < self.next_due_ms - _GUARD_MS
