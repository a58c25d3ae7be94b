"""Work that goes on although its run was stopped, or is over: a slot that nobody would get back.

A task may swallow its interruption, or sit in a call to C that hears of none. What can be done
depends on where it runs:

    a pool process, Python still runs in it    it records the end and kills itself
                                               (`StuckWorkHandler`)
    a pool process that holds Python's lock    its heartbeat stops, so its run is lost; the worker's
                                               main process kills it (`PoolSlotGuard`)
    a thread, a greenlet, the only process     nothing can end it: an incident says which worker has
                                               to be restarted, and when it has ended after all

Celery's pool starts another process in place of one that was killed. Nothing of a run changes by
that whose record is final.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

import msgspec

from hermes_celery.core.incidents import Trouble, TroubleKind, incident_id
from hermes_celery.events import RateLimitedLog, event
from hermes_celery.running.escaped_exceptions import is_pool_process

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.core.incidents import ReportsTroubles
    from hermes_celery.store import Claim, Incidents, Runs

_log = logging.getLogger(__name__)

#: For so long a pool process may clean up after a run that is not its own any more.
PATIENCE_SECONDS = 15.0
_LOOK_SECONDS = 5.0


class StuckWorkHandler:
    """The reaction in the process itself."""

    def __init__(self, *, reporter: ReportsTroubles, incidents: Incidents, clock: Clock) -> None:
        self._reporter = reporter
        self._incidents = incidents
        self._clock = clock

    def can_end(self, worker: str) -> bool:
        """Whether this is a pool process of the worker."""
        return is_pool_process(worker)

    def end(self, claim: Claim) -> None:
        """Kill this process: whatever it runs hears of nothing else."""
        event(_log, "run.killed", level=logging.WARNING, run=claim.run_id, pid=os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)

    def tell(self, claim: Claim, worker: str) -> None:
        """Open an incident. Raises StoreError."""
        text = (
            f"Cron '{claim.spec.name}': run {claim.run_id} was stopped and goes on in a slot of "
            f"worker {worker}, where nothing can end it → restart that worker"
        )
        trouble = Trouble(
            kind=TroubleKind.STUCK, subject=claim.run_id, text=text, run_id=claim.run_id
        )
        self._reporter.tell(trouble, now_ms=self._clock.now_ms())

    def over(self, claim: Claim, worker: str) -> None:
        """Close the incident. Raises StoreError."""
        mine = incident_id(TroubleKind.STUCK, claim.run_id)
        found = [one for one in self._incidents.of_job("") if one.id == mine]
        text = f"run {claim.run_id} has ended; its slot of worker {worker} is free again"
        self._reporter.over(found, text, now_ms=self._clock.now_ms())


class HeldMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that a pool process of this worker works on."""

    run_id: str
    pid: int
    #: Differs from one acceptance of a message to the next.
    since: float


class PoolSlotGuard:
    """Kills pool processes whose run was given to somebody else, or was ended by somebody else."""

    def __init__(
        self,
        runs: Runs,
        *,
        worker: str,
        held: Callable[[], Iterable[HeldMessage]],
        kill: Callable[[int], None],
        clock: Clock,
    ) -> None:
        """`kill` ends a process if it still is one of the pool's."""
        self._runs = runs
        self._worker = worker
        self._held = held
        self._kill = kill
        self._clock = clock
        self._claims: dict[HeldMessage, str] = {}
        self._gone_since: dict[HeldMessage, float] = {}
        self._complaint = RateLimitedLog()

    def start(self) -> None:
        """Look every few seconds, from a thread of its own."""
        threading.Thread(target=self._loop, name="hermes-slots", daemon=True).start()

    def _loop(self) -> None:
        pause = threading.Event()
        while not pause.wait(_LOOK_SECONDS):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - it looks again
                if self._complaint.may_say(self._clock.monotonic()):
                    event(_log, "slots.not_looked_at", level=logging.WARNING, why=error)

    def look(self) -> list[int]:
        """Look once; the processes that were killed. Raises StoreError."""
        now = self._clock.monotonic()
        held = list(self._held())
        self._forget_all_but(held)
        holders = self._runs.holders([one.run_id for one in held])
        killed = []
        for one in held:
            holder = holders.get(one.run_id)
            if holder is None:
                continue
            if one not in self._claims:
                if holder.worker == self._worker and holder.claim:
                    self._claims[one] = holder.claim
                continue
            claim = self._claims[one]
            if claim in (holder.claim, holder.finished_by):
                # It works, or has recorded the end itself and tidies up.
                self._gone_since.pop(one, None)
            elif now - self._gone_since.setdefault(one, now) >= PATIENCE_SECONDS:
                event(_log, "run.killed", level=logging.WARNING, run=one.run_id, pid=one.pid)
                self._kill(one.pid)
                killed.append(one.pid)
        return killed

    def _forget_all_but(self, held: Collection[HeldMessage]) -> None:
        kept = set(held)
        self._claims = {one: claim for one, claim in self._claims.items() if one in kept}
        self._gone_since = {one: at for one, at in self._gone_since.items() if one in kept}
