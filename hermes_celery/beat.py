"""The beat: hold the lease, tick, plan ahead, sleep until the next due instant, stop cleanly.

`Beat` is the loop's body; `CronScheduler` is what `celery beat` drives. Celery's manners shape it:
it builds the scheduler twice (once `lazy`), so construction has no effects; on SIGTERM it calls
`close()` from the signal handler, in the middle of a running tick, and calls it again after the
tick was torn down by SystemExit. Only the second call may use the connections, so a `close()` that
comes inside a tick does nothing.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.beat import Scheduler

from hermes_celery.ahead import Ahead
from hermes_celery.errors import HermesCeleryError, LeaseLost, StoreError
from hermes_celery.lease import RENEW_SECONDS, Lease
from hermes_celery.log import Seldom, event
from hermes_celery.preparing import Messages
from hermes_celery.rescue import rescue
from hermes_celery.tick import TickReport, tick

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.store import DueIndex, History, Jobs, Runs, Waker

_log = logging.getLogger(__name__)

_RESCUE_EVERY_SECONDS = 1.0
#: The pause between two passes while there is more to do: ticks come first.
_NEXT_RESCUE_SECONDS = 0.05
#: Workers that lost Redis together with us get this long to say that they are alive.
_RESCUE_AFTER_SECONDS = 5.0
_RETRY_SECONDS = 0.5
#: So long at a time it plans ahead without hearing that something earlier became due.
_LOOK_AHEAD_MS = 10
#: So long before something is due it stops planning ahead: a slice takes about 2 ms.
_GUARD_MS = 3
#: Neither leading nor standing by yet.
_UNKNOWN = -1


def owner_name() -> str:
    """A name for this process's lease that no other process has or had."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Beat:
    """One beat of possibly many: leads or stands by."""

    def __init__(
        self,
        *,
        lease: Lease,
        due_index: DueIndex,
        jobs: Jobs,
        runs: Runs,
        history: History,
        messages: Messages,
        waker: Waker,
        clock: Clock,
        on_lead: Callable[[], None] = lambda: None,
        on_rescue: Callable[[int, int], None] = lambda token, now_ms: None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._lease = lease
        self._due_index = due_index
        self._jobs = jobs
        self._runs = runs
        self._history = history
        self._on_lead = on_lead
        self._on_rescue = on_rescue
        self._messages = messages
        self._ahead = Ahead(due_index, messages)
        self._waker = waker
        self._clock = clock
        self._pause = pause
        self._token: int | None = _UNKNOWN
        self._leads_since = 0.0
        self._rescued_at = 0.0
        self._complaint = Seldom()

    def step(self) -> TickReport | None:
        """Tick if we lead and something is due, then sleep for at most a quarter of a second.

        Returns what the tick did; None when nothing was due, we stand by, or Redis is away.
        """
        try:
            report = self._lead_or_stand_by()
        except LeaseLost as error:
            event(_log, "tick.fenced", level=logging.WARNING, why=error)
            self._lease.forget()
            return None
        except StoreError as error:
            self._complain(error)
            self._leads_since = self._clock.monotonic()
            self._pause(_RETRY_SECONDS)
            return None
        if self._complaint.over():
            event(_log, "beat.recovered")
        return report

    def stop(self) -> None:
        """Give the lease back, so that a standby takes over at once."""
        try:
            self._lease.release()
            self._waker.close()
        except HermesCeleryError as error:
            event(_log, "beat.release_failed", level=logging.WARNING, why=error)

    def _lead_or_stand_by(self) -> TickReport | None:
        token = self._lease.hold()
        self._note_leadership(token)
        if token is None:
            self._waker.wait(min(max(self._lease.free_in_seconds, 0.001), RENEW_SECONDS))
            return None
        report, next_due_ms = None, self._due_index.next_due_ms()
        if next_due_ms is not None and next_due_ms <= self._clock.now_ms():
            report = self._tick(token)
            next_due_ms = None if report.paused else report.next_due_ms
        self._rescue(token)
        has_more = False if report and report.paused else self._look_ahead(next_due_ms)
        self._waker.wait(0 if has_more else self._seconds_until(next_due_ms))
        return report

    def _look_ahead(self, next_due_ms: int | None) -> bool:
        """Prepare what is coming while nothing is due; whether there is more to prepare."""
        now_ms = self._clock.now_ms()
        until_ms = now_ms + _LOOK_AHEAD_MS
        if next_due_ms is not None:
            until_ms = min(until_ms, next_due_ms - _GUARD_MS)
        while now_ms < until_ms:
            if not self._ahead.look(now_ms):
                return False
            now_ms = self._clock.now_ms()
        return next_due_ms is None or now_ms < next_due_ms - _GUARD_MS

    def _tick(self, token: int) -> TickReport:
        report = tick(
            self._due_index,
            self._messages,
            token=token,
            now_ms=self._clock.now_ms(),
            ahead=self._ahead,
        )
        if report.paused:
            self._ahead.forget()
        event(
            _log,
            "tick.done",
            # Paused, it is asked four times a second.
            level=logging.DEBUG if report.paused else logging.INFO,
            dispatched=report.dispatched or None,
            held=report.held or None,
            overlapping=report.overlapping or None,
            skipped=report.skipped or None,
            moved=report.moved or None,
            broken=report.broken or None,
            paused=report.paused or None,
        )
        return report

    def _seconds_until(self, next_due_ms: int | None) -> float:
        """Until the next due instant, but never past the next renewal."""
        if next_due_ms is None:
            return RENEW_SECONDS
        return min(max((next_due_ms - self._clock.now_ms()) / 1000, 0.0), RENEW_SECONDS)

    def _rescue(self, token: int) -> None:
        now = self._clock.monotonic()
        if now - self._leads_since < _RESCUE_AFTER_SECONDS:
            return
        if now - self._rescued_at < _RESCUE_EVERY_SECONDS:
            return
        self._rescued_at = now
        now_ms = self._clock.now_ms()
        report = rescue(self._jobs, self._runs, self._messages, token=token, now_ms=now_ms)
        if report.has_more:
            self._rescued_at = now - _RESCUE_EVERY_SECONDS + _NEXT_RESCUE_SECONDS
        self._on_rescue(token, now_ms)
        self._history.trim(now_ms)
        self._history.remove_completed(self._jobs, now_ms)

    def _note_leadership(self, token: int | None) -> None:
        if token == self._token:
            return
        self._leads_since = self._clock.monotonic()
        self._ahead.forget()
        event(_log, "beat.leads" if token else "beat.stands_by", term=token)
        if token:
            # Before it is noted: what fails here for lack of Redis is done again at the next step.
            self._on_lead()
        self._token = token

    def _complain(self, error: StoreError) -> None:
        if self._complaint.may_say(self._clock.monotonic()):
            event(_log, "beat.store_failed", level=logging.ERROR, why=error)


class CronScheduler(Scheduler):  # type: ignore[misc]  # Celery carries no types
    """The scheduler class for `celery beat`; set as `beat_scheduler` in our app's configuration."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._beat: Beat | None = None
        self._ticking = False
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        """Nothing: the schedules are in Redis."""

    @property
    def info(self) -> str:
        """A line of the banner."""
        from hermes_celery.compose import shown_url

        return f"    . schedules -> {shown_url(self.app)}"

    def tick(self, *_: Any, **__: Any) -> float:
        """One step; it sleeps by itself, so Celery calls again at once."""
        self._ticking = True
        try:
            if self._beat is None:
                from hermes_celery.compose import make_beat

                self._beat = make_beat(self.app, owner=owner_name())
            self._beat.step()
        finally:
            self._ticking = False
        return 0.0

    def close(self) -> None:
        """Stop leading. Ignored inside a tick: Celery calls again when the tick is torn down."""
        if self._beat is not None and not self._ticking:
            beat, self._beat = self._beat, None
            beat.stop()

    def sync(self) -> None:
        """Nothing is kept back, so there is nothing to write."""
