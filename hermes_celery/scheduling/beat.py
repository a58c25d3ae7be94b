"""The beat: hold the lease, tick, plan ahead, sleep until the next due instant, stop cleanly.

`Beat` is the body of the loop. The caller calls `step` again and again, and `stop` at the end.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from hermes_celery.errors import HermesCeleryError, StoreError, error_text
from hermes_celery.events import RateLimitedLog, event
from hermes_celery.guards.backoff import backoff
from hermes_celery.scheduling.lease import RENEW_SECONDS
from hermes_celery.scheduling.tick import MOST_JOBS, TickReport, merged

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.scheduling.leader_duties import LeaderDuties
    from hermes_celery.scheduling.living_beats import LivingBeats
    from hermes_celery.scheduling.shard import Shard
    from hermes_celery.store import Waker

_log = logging.getLogger(__name__)

#: Seconds for workers that lost Redis together with this beat to send a heartbeat again.
_DUTIES_AFTER_SECONDS = 5.0
_RETRY_SECONDS = 0.5
#: The longest pause after an unexpected error.
_LONGEST_CRASH_SECONDS = 30.0
#: Planning ahead runs this long at a time; a job that becomes due meanwhile waits for it.
_LOOK_AHEAD_MS = 10


def owner_name() -> str:
    """Return a lease owner name that no other process has or had."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Beat:
    """One of any number of beats. It leads its shards or stands by for them."""

    def __init__(
        self,
        living_beats: LivingBeats,
        make_shard: Callable[[int], Shard],
        duties: LeaderDuties,
        *,
        waker: Waker,
        clock: Clock,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take the collaborators; `make_shard` builds this beat's view of a shard from its number.

        `duties` holds the work that belongs to no shard. The leader of shard 0 does it.
        """
        self._living_beats = living_beats
        self._make_shard = make_shard
        self._duties = duties
        self._shards: list[Shard] = []
        self._waker = waker
        self._clock = clock
        self._pause = pause
        self._complaint = RateLimitedLog()
        self._crashes = 0

    def step(self) -> TickReport | None:
        """Tick the led shards that have due jobs, then sleep for at most a quarter of a second.

        Returns what the ticks did. Returns None when nothing was due, this beat stands by, Redis is
        unreachable, or an unexpected error occurred. Such an error ends this step, not the process.
        """
        try:
            report = self._lead_or_stand_by()
        except StoreError as error:
            self._complain(error)
            for shard in self._shards:
                shard.was_cut_off()
            self._pause(_RETRY_SECONDS)
            return None
        except Exception as error:  # noqa: BLE001 - no error of one step may end the beat
            self._crashed(error)
            return None
        self._crashes = 0
        if self._complaint.over():
            event(_log, "beat.recovered")
        return report

    def _crashed(self, error: Exception) -> None:
        """Log the traceback and wait, longer each time, so that a standby can take the lead."""
        self._crashes += 1
        wait = backoff(self._crashes, first=_RETRY_SECONDS, most=_LONGEST_CRASH_SECONDS)
        if self._complaint.may_say(self._clock.monotonic()):
            event(_log, "beat.step_failed", level=logging.ERROR, exc_info=error,
                  why=error_text(error), again_in=f"{wait:g} s")  # fmt: skip
        self._pause(wait)

    def keep_leading(self) -> None:
        """Renew the leases while a step takes long."""
        for shard in self._shards:
            if shard.token is not None:
                with suppress(StoreError):
                    shard.hold()

    def stop(self) -> None:
        """Release the leases, so that a standby takes over at once."""
        try:
            self._duties.stop()
            self._living_beats.leave()
            for shard in self._shards:
                shard.leave()
            self._waker.close()
        except HermesCeleryError as error:
            event(_log, "beat.release_failed", level=logging.WARNING, why=error)

    def _lead_or_stand_by(self) -> TickReport | None:
        if not self._shards:
            self._split(self._living_beats.count())
        self._take_share()
        self._begin()
        leading = [shard for shard in self._shards if shard.token is not None]
        reports = self._tick(leading)
        self._do_duties(is_busy=any(shard.is_due for shard in leading))
        is_paused = any(report.paused for report in reports)
        has_more = not is_paused and self._look_ahead(leading)
        self._waker.wait(0 if has_more else self._seconds(leading, is_paused=is_paused))
        return merged(reports)

    def _split(self, count: int) -> None:
        """Start over with `count` shards, leading none of them."""
        for shard in self._shards:
            shard.leave()
        self._shards = [self._make_shard(number) for number in range(count)]

    def _take_share(self) -> None:
        """Hold the leases of this beat's share of the shards, and release the others.

        A shard whose lease keys hold unusable values is skipped; the other shards go on.
        """
        share = self._living_beats.share(len(self._shards))
        for shard in self._shards:
            is_same = shard.leading.attempt(partial(self._hold, shard, share), True)
            if not is_same:
                return

    def _hold(self, shard: Shard, share: range) -> bool:
        """Lead a shard of this beat's share, release any other.

        Returns False if the number of shards has changed.
        """
        if shard.number not in share:
            shard.leave()
        elif shard.hold() and not self._take_over(shard):
            return False
        shard.announce_change()
        return True

    def _take_over(self, shard: Shard) -> bool:
        """Do what a new leader of a shard does first.

        Returns False if the number of shards has changed. The change of leader is announced after
        this call, so a step that fails because Redis is unreachable does it all again.
        """
        count = self._living_beats.count()
        if count != len(self._shards):
            self._split(count)
            return False
        if shard.number == 0:
            self._duties.take_over()
            self._begin()
        return True

    def _begin(self) -> None:
        if self._shards[0].token is not None:
            self._duties.begin(self._living_beats.fault())

    def _tick(self, leading: Sequence[Shard]) -> list[TickReport]:
        reports = []
        for shard in leading:
            with shard.fenced():
                report = shard.tick(most=MOST_JOBS // len(leading))
                if report is not None:
                    self._log_report(report)
                    reports.append(report)
                    for fault in report.faults:
                        self._duties.report_fault(fault)
        return reports

    def _log_report(self, report: TickReport) -> None:
        event(
            _log,
            "tick.done",
            # A paused scheduler ticks four times a second.
            level=logging.DEBUG if report.paused else logging.INFO,
            dispatched=report.dispatched or None,
            held=report.held or None,
            overlapping=report.overlapping or None,
            skipped=report.skipped or None,
            moved=report.moved or None,
            broken=report.broken or None,
            paused=report.paused or None,
        )

    def _look_ahead(self, leading: Sequence[Shard]) -> bool:
        """Prepare upcoming steps while nothing is due; return whether there is more to prepare."""
        until_ms = self._clock.now_ms() + _LOOK_AHEAD_MS
        return any([shard.look_ahead(until_ms=until_ms) for shard in leading])

    def _seconds(self, leading: Sequence[Shard], *, is_paused: bool) -> float:
        """Return the seconds until there is work, at most until the next renewal of the lease."""
        seconds = [RENEW_SECONDS, self._living_beats.asks_in_seconds]
        if not is_paused:
            seconds += [shard.seconds_until_due for shard in leading]
        if not leading:
            seconds += [
                max(shard.free_in_seconds, shard.leading.waits_seconds, 0.001)
                for shard in self._shards
            ]
        else:
            seconds.append(self._duties.due_in_seconds)
        return min(seconds)

    def _do_duties(self, *, is_busy: bool) -> None:
        first = self._shards[0]
        token = first.token
        if token is None or first.leads_for_seconds < _DUTIES_AFTER_SECONDS:
            return
        with first.fenced():
            self._duties.pass_if_due(token, is_busy=is_busy)

    def _complain(self, error: StoreError) -> None:
        if self._complaint.may_say(self._clock.monotonic()):
            event(_log, "beat.store_failed", level=logging.ERROR, why=error)
