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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from hermes_celery.errors import HermesCeleryError, LeaseLost, StoreError, error_text
from hermes_celery.events import RateLimitedLog, event
from hermes_celery.guards.backoff import backoff
from hermes_celery.guards.duty import Duty
from hermes_celery.guards.on_broken import OnBroken, ignored
from hermes_celery.scheduling.lease import RENEW_SECONDS
from hermes_celery.scheduling.planned_runs import BuildsMessages
from hermes_celery.scheduling.rescue import RescueReport, rescue
from hermes_celery.scheduling.tick import MOST, TickReport, merged
from hermes_celery.store.history import Trimmed

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.scheduling.foreign_workers import ForeignWorkers
    from hermes_celery.scheduling.living_beats import LivingBeats
    from hermes_celery.scheduling.shard import Shard
    from hermes_celery.store import BrokenJob, History, Jobs, Runs, Waker

_log = logging.getLogger(__name__)

_RESCUE_EVERY_SECONDS = 1.0
#: The pause between two passes while there is more to do: ticks come first.
_NEXT_RESCUE_SECONDS = 0.05
#: Workers that lost Redis together with us get this long to say that they are alive.
_RESCUE_AFTER_SECONDS = 5.0
_RETRY_SECONDS = 0.5
#: The longest pause after an error that nobody foresaw.
_LONGEST_CRASH_SECONDS = 30.0
#: So long at a time it plans ahead without hearing that something earlier became due.
_LOOK_AHEAD_MS = 10


def owner_name() -> str:
    """A name for this process's lease that no other process has or had."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Beat:
    """One beat of possibly many: leads its shards or stands by for them."""

    def __init__(
        self,
        *,
        members: LivingBeats,
        make_shard: Callable[[int], Shard],
        jobs: Jobs,
        runs: Runs,
        history: History,
        messages: BuildsMessages,
        waker: Waker,
        clock: Clock,
        on_lead: Callable[[], None] = lambda: None,
        on_rescue: Callable[[int, int], None] = lambda token, now_ms: None,
        sweep: Callable[[int, int], bool] = lambda token, now_ms: False,
        on_fault: Callable[[BrokenJob], None] = lambda fault: None,
        on_stop: Callable[[], None] = lambda: None,
        on_lost: Callable[[Sequence[str]], None] = lambda run_ids: None,
        pause: Callable[[float], None] = time.sleep,
        on_broken: OnBroken = ignored,
        foreign: ForeignWorkers | None = None,
    ) -> None:
        """`make_shard` gives this beat's part in a shard, by its number.

        What belongs to no shard (rescue, `on_lead`, `on_rescue`, `sweep`) is done by whoever leads
        number 0. `sweep` says whether there is more to do at once; `on_fault` hears of each job
        that a tick could not plan or dispatch, `on_lost` of runs that were given up as lost,
        `on_broken` of each record that cannot be read.
        `foreign` knows the queues whose workers do not report.
        """
        self._members = members
        self._make_shard = make_shard
        self._shards: list[Shard] = []
        self._jobs = jobs
        self._runs = runs
        self._history = history
        self._on_lead = on_lead
        self._on_rescue = on_rescue
        self._sweep = sweep
        self._on_fault = on_fault
        self._on_stop = on_stop
        self._on_lost = on_lost
        self._messages = messages
        self._waker = waker
        self._clock = clock
        self._pause = pause
        self._rescued_at = 0.0
        self._rescue_wait = _RESCUE_EVERY_SECONDS
        self._complaint = RateLimitedLog()
        self._crashes = 0
        self._on_broken = on_broken
        self._foreign = foreign
        self._must_begin = False
        self._duties = {
            name: Duty(name, clock=clock, on_broken=on_broken)
            for name in (
                "begin",
                "share",
                "rescue",
                "lost",
                "deliveries",
                "trim",
                "remove completed",
                "sweep",
                "faults",
            )
        }

    def step(self) -> TickReport | None:
        """Tick what we lead and is due, then sleep for at most a quarter of a second.

        Returns what the ticks did; None when nothing was due, we stand by, Redis is away, or an
        error came that nobody foresaw. Such an error ends this step, not the process.
        """
        try:
            report = self._lead_or_stand_by()
        except StoreError as error:
            self._complain(error)
            for shard in self._shards:
                shard.leads_since = self._clock.monotonic()
            self._pause(_RETRY_SECONDS)
            return None
        except Exception as error:  # noqa: BLE001 - the beat goes on, whatever a step ran into
            self._crashed(error)
            return None
        self._crashes = 0
        if self._complaint.over():
            event(_log, "beat.recovered")
        return report

    def _crashed(self, error: Exception) -> None:
        """Say so with the traceback, and wait, each time longer, so that a standby can lead."""
        self._crashes += 1
        wait = backoff(self._crashes, first=_RETRY_SECONDS, most=_LONGEST_CRASH_SECONDS)
        if self._complaint.may_say(self._clock.monotonic()):
            event(_log, "beat.step_failed", level=logging.ERROR, exc_info=error,
                  why=error_text(error), again_in=f"{wait:g} s")  # fmt: skip
        self._pause(wait)

    def keep_leading(self) -> None:
        """Renew the leases while something keeps a step from coming to its end."""
        for shard in self._shards:
            if shard.token is not None:
                with suppress(StoreError):
                    shard.hold()

    def stop(self) -> None:
        """Give the leases back, so that a standby takes over at once."""
        try:
            self._on_stop()
            self._members.leave()
            for shard in self._shards:
                shard.leave()
            self._waker.close()
        except HermesCeleryError as error:
            event(_log, "beat.release_failed", level=logging.WARNING, why=error)

    def _lead_or_stand_by(self) -> TickReport | None:
        if not self._shards:
            self._split(self._members.count())
        self._take_share()
        self._begin_once()
        leading = [shard for shard in self._shards if shard.token is not None]
        reports = self._tick(leading)
        self._rescue(self._shards[0], is_busy=any(shard.is_due for shard in leading))
        is_paused = any(report.paused for report in reports)
        has_more = not is_paused and self._look_ahead(leading)
        self._waker.wait(0 if has_more else self._seconds(leading, is_paused=is_paused))
        return merged(reports)

    def _split(self, count: int) -> None:
        """Begin with so many shards, leading none of them."""
        for shard in self._shards:
            shard.leave()
        self._shards = [self._make_shard(number) for number in range(count)]

    def _take_share(self) -> None:
        """Hold the leases of the shards that are ours, and leave the others.

        A shard whose lease cannot be had for what its keys hold costs itself.
        """
        count = len(self._shards)
        # Whoever does not know the other beats tries for all: each shard has one lease.
        share = self._duties["share"].attempt(lambda: self._members.share(count), range(count))
        for shard in self._shards:
            is_same = shard.leading.attempt(partial(self._hold, shard, share), True)
            if not is_same:
                return

    def _hold(self, shard: Shard, share: range) -> bool:
        """Lead a shard or leave it, as is our share; False if the number of shards has changed."""
        if shard.number not in share:
            shard.leave()
        elif shard.hold() and not self._begin(shard):
            return False
        shard.note()
        return True

    def _begin(self, shard: Shard) -> bool:
        """What the new leader of a shard does first; False if the number of shards has changed.

        It is noted afterwards: what fails here for lack of Redis is done again at the next step.
        """
        count = self._members.count()
        if count != len(self._shards):
            self._split(count)
            return False
        if shard.number == 0:
            self._must_begin = True
            self._begin_once()
        return True

    def _begin_once(self) -> None:
        """Do what whoever leads shard 0 does first, once; again and again where it fails."""
        if self._must_begin and self._shards[0].token is not None:
            self._must_begin = not self._duties["begin"].attempt(self._begun, False)

    def _begun(self) -> bool:
        trouble = self._members.fault()
        if trouble is not None:
            self._on_broken("", trouble.key, trouble.what)
        self._on_lead()
        return True

    def _tick(self, leading: Sequence[Shard]) -> list[TickReport]:
        reports = []
        for shard in leading:
            with _fenced(shard):
                most = MOST // len(leading)
                report = shard.ticking.attempt(partial(shard.tick, most=most), None)
                if report is not None:
                    self._tell(report)
                    reports.append(report)
                    for fault in report.faults:
                        self._duties["faults"].attempt(partial(self._on_fault, fault), None)
        return reports

    def _tell(self, report: TickReport) -> None:
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

    def _look_ahead(self, leading: Sequence[Shard]) -> bool:
        """Prepare what is coming while nothing is due; whether there is more to prepare."""
        until_ms = self._clock.now_ms() + _LOOK_AHEAD_MS
        return any(
            [
                shard.looking.attempt(partial(shard.look_ahead, until_ms=until_ms), False)
                for shard in leading
            ]
        )

    def _seconds(self, leading: Sequence[Shard], *, is_paused: bool) -> float:
        """How long there is nothing to do, but never past the next renewal."""
        seconds = [RENEW_SECONDS, self._members.asks_in_seconds]
        if not is_paused:
            seconds += [shard.seconds_until_due for shard in leading]
        if not leading:
            seconds += [
                max(shard.free_in_seconds, shard.leading.waits_seconds, 0.001)
                for shard in self._shards
            ]
        elif self._rescued_at:
            again_at = self._rescued_at + self._rescue_wait
            seconds.append(max(again_at - self._clock.monotonic(), 0.001))
        return min(seconds)

    def _rescue(self, first: Shard, *, is_busy: bool) -> None:
        token, now = first.token, self._clock.monotonic()
        if token is None or now - first.leads_since < _RESCUE_AFTER_SECONDS:
            return
        # Whatever there is more to rescue, what is due comes first.
        wait = _RESCUE_EVERY_SECONDS if is_busy else self._rescue_wait
        if now - self._rescued_at < wait:
            return
        self._rescued_at = now
        with _fenced(first):
            has_more = self._rescue_once(token)
            self._rescue_wait = _NEXT_RESCUE_SECONDS if has_more else _RESCUE_EVERY_SECONDS

    def _rescue_once(self, token: int) -> bool:
        """One pass; whether there is more to do. A part of it that fails keeps no other back."""
        now_ms, duties = self._clock.now_ms(), self._duties
        # First: what nothing stands behind must not fill the view of the others.
        is_sweeping = duties["sweep"].attempt(lambda: self._sweep(token, now_ms), False)
        rescued = duties["rescue"].attempt(
            lambda: rescue(
                self._jobs,
                self._runs,
                self._messages,
                token=token,
                now_ms=now_ms,
                on_broken=self._on_broken,
                foreign=self._foreign,
            ),
            RescueReport(),
        )
        if rescued.given_up:
            duties["lost"].attempt(lambda: self._on_lost(rescued.given_up), None)
        duties["deliveries"].attempt(lambda: self._on_rescue(token, now_ms), None)
        trimmed = duties["trim"].attempt(
            lambda: self._history.trim(now_ms), Trimmed(runs=0, has_more=False)
        )
        duties["remove completed"].attempt(
            lambda: self._history.remove_completed(self._jobs, now_ms), 0
        )
        return is_sweeping or rescued.has_more or trimmed.has_more

    def _complain(self, error: StoreError) -> None:
        if self._complaint.may_say(self._clock.monotonic()):
            event(_log, "beat.store_failed", level=logging.ERROR, why=error)


@contextmanager
def _fenced(shard: Shard) -> Iterator[None]:
    """A lost lease is no error: stop writing, step down."""
    try:
        yield
    except LeaseLost as error:
        event(_log, "tick.fenced", level=logging.WARNING, why=error)
        shard.forget()
