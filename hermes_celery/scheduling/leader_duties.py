"""Do what the leader of shard 0 does for the whole namespace: begin once, then pass after pass.

There is a pass every second, and at once again while there is more to do. A pass compares stored
records, rescues runs, pushes deliveries and deletes old records. Each of these is a duty of its
own, so a duty that fails does not hold back the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hermes_celery.guards.contained_duty import Duty
from hermes_celery.guards.on_broken import OnBroken, ignored
from hermes_celery.scheduling.run_rescue import RescueReport
from hermes_celery.store.history import Trimmed

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.errors import RecordBroken
    from hermes_celery.scheduling.run_rescue import Rescuer
    from hermes_celery.store import BrokenJob, History

_EVERY_SECONDS = 1.0
#: The pause between two passes while there is more to do: ticks come first.
_NEXT_SECONDS = 0.05
#: Never 0, so that a beat does not spin.
_SHORTEST_SECONDS = 0.001
#: Faults that wait to be reported. Beyond that the oldest is dropped: a job that was taken off the
#: schedule has a stored note, and any other job fails again.
_MOST_UNREPORTED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderHooks:
    """Callbacks for the beat that leads shard 0."""

    #: Called when a new leader begins.
    on_lead: Callable[[], None] = lambda: None
    #: Called in each pass, with the fencing token and the server's time in Unix milliseconds.
    on_pass: Callable[[int, int], None] = lambda token, now_ms: None
    #: Compares some stored records; returns whether there is more to do at once.
    sweep: Callable[[int, int], bool] = lambda token, now_ms: False
    #: Called when a tick could not plan or dispatch a job.
    on_fault: Callable[[BrokenJob], None] = lambda fault: None
    #: Called with the ids of runs that were given up as lost.
    on_lost: Callable[[Sequence[str]], None] = lambda run_ids: None
    #: Called when the beat stops.
    on_stop: Callable[[], None] = lambda: None


class LeaderDuties:
    """The work of one beat as the leader of shard 0, and when it is due."""

    def __init__(
        self,
        rescuer: Rescuer,
        history: History,
        *,
        clock: Clock,
        hooks: LeaderHooks | None = None,
        on_broken: OnBroken = ignored,
    ) -> None:
        """Take the collaborators; `on_broken` gets each broken record that makes a duty fail."""
        self._rescuer = rescuer
        self._history = history
        self._clock = clock
        self._hooks = hooks or LeaderHooks()
        self._on_broken = on_broken
        self._must_begin = False
        self._passed_at = 0.0
        self._wait_seconds = _EVERY_SECONDS
        duty = partial(Duty, clock=clock, on_broken=on_broken)
        self._begin = duty("begin")
        self._sweep = duty("sweep")
        self._rescue = duty("rescue")
        self._lost_reports = duty("lost")
        self._other_work = duty("deliveries")
        self._trim = duty("trim")
        self._remove_completed = duty("remove completed")
        self._fault_reports = duty("faults")
        self._unreported: deque[BrokenJob] = deque(maxlen=_MOST_UNREPORTED)

    def take_over(self) -> None:
        """Make the next `begin` do what a new leader does first."""
        self._must_begin = True

    def begin(self, bad_count: RecordBroken | None) -> None:
        """Do what a new leader does first, once; a failure is tried again at the next call.

        `bad_count` is the fault of the stored number of shards, if any. Raises StoreUnavailable.
        """
        if self._must_begin:
            self._must_begin = not self._begin.attempt(lambda: self._begun(bad_count), False)

    def _begun(self, bad_count: RecordBroken | None) -> bool:
        if bad_count is not None:
            self._on_broken("", bad_count.key, bad_count.what)
        self._hooks.on_lead()
        return True

    def report_fault(self, fault: BrokenJob) -> None:
        """Report a job that a tick could not plan or dispatch; if that fails, a later pass does it.

        Raises LeaseLost and StoreUnavailable.
        """
        if fault not in self._unreported:
            self._unreported.append(fault)
        self._report_faults()

    def _report_faults(self) -> None:
        def reported() -> bool:
            self._hooks.on_fault(self._unreported[0])
            return True

        while self._unreported and not self._fault_reports.waits_seconds:
            if not self._fault_reports.attempt(reported, False):
                # A report that fails again and again must not hold back the others.
                self._unreported.rotate(-1)
            else:
                self._unreported.popleft()

    def stop(self) -> None:
        """Stop the threads that run beside the beat."""
        self._hooks.on_stop()

    @property
    def due_in_seconds(self) -> float:
        """Seconds until the next pass is due; infinite before the first one."""
        if not self._passed_at:
            return float("inf")
        again_at = self._passed_at + self._wait_seconds
        return max(again_at - self._clock.monotonic(), _SHORTEST_SECONDS)

    def pass_if_due(self, token: int, *, is_busy: bool) -> None:
        """Do one pass if it is due; while ticks are busy, at most one pass a second.

        Raises LeaseLost and StoreUnavailable.
        """
        now = self._clock.monotonic()
        wait = _EVERY_SECONDS if is_busy else self._wait_seconds
        if now - self._passed_at < wait:
            return
        self._passed_at = now
        has_more = self._pass_once(token, self._clock.now_ms())
        self._wait_seconds = _NEXT_SECONDS if has_more else _EVERY_SECONDS

    def _pass_once(self, token: int, now_ms: int) -> bool:
        """Do one pass; return whether there is more to do. A failing part holds back no other."""
        hooks, history = self._hooks, self._history
        # The sweep is first: it removes index entries without a record, which would fill the
        # batches of the other duties.
        is_sweeping = self._sweep.attempt(lambda: hooks.sweep(token, now_ms), False)
        rescued = self._rescue.attempt(
            lambda: self._rescuer.rescue(token=token, now_ms=now_ms), RescueReport()
        )
        if rescued.given_up:
            self._lost_reports.attempt(lambda: hooks.on_lost(rescued.given_up), None)
        self._report_faults()
        self._other_work.attempt(lambda: hooks.on_pass(token, now_ms), None)
        trimmed = self._trim.attempt(lambda: history.trim(now_ms), Trimmed(runs=0, has_more=False))
        self._remove_completed.attempt(
            lambda: history.remove_completed(self._rescuer.jobs, now_ms), 0
        )
        return is_sweeping or rescued.has_more or trimmed.has_more
