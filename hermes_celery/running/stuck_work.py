"""Handle work that goes on although its run was stopped or is over, and so blocks a worker slot.

A task may swallow its interruption, or block in a call to C that is never interrupted. What helps
depends on where the task runs:

    a pool process that still runs Python      it records the end and kills itself
                                               (`StuckWorkHandler`)
    a pool process that holds Python's lock    its heartbeat stops, so its run is lost; the worker's
                                               main process kills it (`PoolSlotGuard`)
    a thread, a greenlet, the only process     nothing can end it: an incident names the worker to
                                               restart, and is ended if the work ends after all

Celery's pool replaces a killed process. A run whose record is final does not change any more.
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

#: Seconds that a pool process may clean up after it has lost its run's claim.
PATIENCE_SECONDS = 15.0
_LOOK_SECONDS = 5.0


class StuckWorkHandler:
    """Handles stuck work in the process that runs it."""

    def __init__(self, *, reporter: ReportsTroubles, incidents: Incidents, clock: Clock) -> None:
        self._reporter = reporter
        self._incidents = incidents
        self._clock = clock

    def can_end(self, worker: str) -> bool:
        """Return whether this is a pool process of the worker."""
        return is_pool_process(worker)

    def end(self, claim: Claim) -> None:
        """Kill this process with SIGKILL; the stuck work reacts to nothing else."""
        event(_log, "run.killed", level=logging.WARNING, run=claim.run_id, pid=os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)

    def tell(self, claim: Claim, worker: str) -> None:
        """Open an incident. Raises StoreError."""
        text = (
            f"Cron '{claim.spec.name}': run {claim.run_id} was stopped, but goes on in a slot of "
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
    """A message that a pool process of this worker is working on."""

    run_id: str
    pid: int
    #: The time of acceptance, which tells two acceptances of one message apart.
    since: float


class PoolSlotGuard:
    """Kills pool processes whose run was claimed or ended by someone else."""

    def __init__(
        self,
        runs: Runs,
        *,
        worker: str,
        held: Callable[[], Iterable[HeldMessage]],
        kill: Callable[[int], None],
        clock: Clock,
    ) -> None:
        """Take the collaborators; `kill` ends a process if it is still one of the pool's."""
        self._runs = runs
        self._worker = worker
        self._held = held
        self._kill = kill
        self._clock = clock
        self._claims: dict[HeldMessage, str] = {}
        self._gone_since: dict[HeldMessage, float] = {}
        self._complaint = RateLimitedLog()

    def start(self) -> None:
        """Start a thread that checks every few seconds."""
        threading.Thread(target=self._loop, name="hermes-slots", daemon=True).start()

    def _loop(self) -> None:
        pause = threading.Event()
        while not pause.wait(_LOOK_SECONDS):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - the next check must follow
                if self._complaint.may_say(self._clock.monotonic()):
                    event(_log, "slots.not_looked_at", level=logging.WARNING, why=error)

    def look(self) -> list[int]:
        """Check once; return the ids of the processes that were killed. Raises StoreError."""
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
                # The process is working, or has recorded the end itself and is cleaning up.
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
