"""The heartbeat of all runs in one process: one thread, one script call every half second.

Each heartbeat also carries the output of its run since the last one.

The answer says for each run whether it should go on. If a run was asked to stop, or its claim is
lost, its `RunningRun` is set; the runner ends the work. If the work has not returned ten seconds
later, it cannot be ended from inside, and `on_stuck` is called once. While Redis does not answer,
runs go on: their claims are checked when they finish.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hermes_celery.core.output import PrintedPiece
from hermes_celery.events import RateLimitedLog, event
from hermes_celery.running.live_output import LiveOutput

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.store import Claim, Runs

_log = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.5
#: A child gets five seconds from TERM to KILL; a task has this long to clean up.
STUCK_SECONDS = 10.0


class RunningRun:
    """The stop signal of a run (`is_set`, with its reason) and its live output."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._returning = threading.Lock()
        self._on_stop: Callable[[], None] | None = None
        self.reason: str | None = None
        self.live = LiveOutput()
        #: When the run was asked to stop, by the monotonic clock.
        self.stopped_at: float | None = None
        #: Whether the work has returned. Recording its end may still take long.
        self.is_back = False
        #: Whether the work was found to go on although it was asked to stop.
        self.is_stuck = False
        self.on_stuck: Callable[[RunningRun], None] = lambda run: None

    def set(self, reason: str) -> None:
        """Ask the run to stop; the first reason is kept."""
        is_first = not self._event.is_set()
        self.reason = self.reason or reason
        self._event.set()
        if is_first and self._on_stop is not None:
            self._on_stop()

    def on_stop(self, react: Callable[[], None]) -> None:
        """Call `react` from the heartbeat's thread when the run is to stop.

        If it already is, call `react` now.
        """
        self._on_stop = react
        if self._event.is_set():
            react()

    def returned(self) -> None:
        """Note that the work has returned; waits while `unless_back` acts."""
        with self._returning:
            self.is_back = True

    def unless_back(self, act: Callable[[], None]) -> None:
        """Call `act` if the work has not returned; it cannot return meanwhile."""
        with self._returning:
            if not self.is_back:
                act()

    def is_set(self) -> bool:
        """Return whether the run should end now."""
        return self._event.is_set()


class Heartbeats:
    """Sends heartbeats for every registered run, from one thread that starts with the first run."""

    def __init__(self, runs: Runs, *, clock: Clock) -> None:
        self._runs = runs
        self._clock = clock
        self._running: dict[str, tuple[Claim, RunningRun]] = {}
        self._lock = threading.Lock()
        self._busy = threading.Event()
        self._thread: threading.Thread | None = None
        self._complaint = RateLimitedLog()

    @contextmanager
    def sent_for(
        self, claim: Claim, *, on_stuck: Callable[[RunningRun], None] = lambda run: None
    ) -> Iterator[RunningRun]:
        """Send heartbeats for a claimed run while the block runs.

        `on_stuck` is called from the heartbeat's thread when stopped work does not end.
        """
        running = RunningRun()
        running.on_stuck = on_stuck
        try:
            with self._lock:
                self._running[claim.run_id] = (claim, running)
                # This raises if the system has no thread left. The run is then removed below, so
                # that a thread that starts later sends no heartbeat for it.
                self._ensure_thread()
            self._busy.set()
            yield running
        finally:
            with self._lock:
                self._running.pop(claim.run_id, None)

    def _ensure_thread(self) -> None:
        # A thread does not survive a fork, so an inherited one is dead.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._loop, name="hermes-heartbeat", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(INTERVAL_SECONDS)
            with self._lock:
                running = dict(self._running)
                if not running:
                    self._busy.clear()
            if running:
                self._beat(running)
                self._look_for_stuck(running)
            else:
                self._busy.wait()

    def _beat(self, running: dict[str, tuple[Claim, RunningRun]]) -> None:
        claims = {run_id: claim.token for run_id, (claim, _) in running.items()}
        printed = {run_id: self._printed(run_id, run) for run_id, (_, run) in running.items()}
        groups = {run_id: claim.group for run_id, (claim, _) in running.items()}
        try:
            answers = self._runs.heartbeat(
                claims, now_ms=self._clock.now_ms(), printed=printed, groups=groups
            )
        except Exception as error:  # noqa: BLE001 - without this thread every run here is lost
            for run_id, (_, run) in running.items():
                run.live.give_back(printed[run_id])
            if self._complaint.may_say(self._clock.monotonic()):
                event(_log, "heartbeat.failed", level=logging.WARNING, error=error)
            return
        self._complaint.over()
        for run_id, answer in answers.items():
            if answer == "broken":
                # The work goes on: the leader repairs the broken key.
                running[run_id][1].live.give_back(printed[run_id])
            elif answer != "ok":
                self._stop(run_id, running[run_id][1], answer)

    def _printed(self, run_id: str, run: RunningRun) -> PrintedPiece:
        """Return what a run printed; an error loses this output only, not the heartbeat."""
        try:
            return run.live.take()
        except Exception as error:  # noqa: BLE001 - the heartbeat matters more than the output
            event(_log, "run.print_lost", level=logging.ERROR, exc_info=error, run=run_id)
            return PrintedPiece()

    def _look_for_stuck(self, running: dict[str, tuple[Claim, RunningRun]]) -> None:
        now = self._clock.monotonic()
        for run_id, (_, run) in running.items():
            since = run.stopped_at
            if run.is_back or run.is_stuck or since is None or now - since < STUCK_SECONDS:
                continue
            run.is_stuck = True
            try:
                run.on_stuck(run)
            except Exception as error:  # noqa: BLE001 - the others still want their heartbeats
                event(_log, "run.stuck_untold", level=logging.ERROR, exc_info=error, run=run_id)

    def _stop(self, run_id: str, run: RunningRun, reason: str) -> None:
        if run.stopped_at is not None:
            return
        run.stopped_at = self._clock.monotonic()
        event(_log, "run.stopping", run=run_id, reason=reason)
        try:
            run.set(reason)
        except Exception as error:  # noqa: BLE001 - the others still want their heartbeats
            event(_log, "run.not_stopped", level=logging.ERROR, exc_info=error, run=run_id)
