"""Watch, from the workers, whether any beat ticks.

Each worker checks every ten seconds, because without a beat there is no leader whose watchdog
would. A worker records the incident, and the next leader ends it.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from hermes_celery.core.incidents import Trouble, TroubleKind
from hermes_celery.errors import StoreError
from hermes_celery.events import event
from hermes_celery.instant import from_ms

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.delivering.trouble_reporter import TroubleReporter
    from hermes_celery.store import TroubleSigns

_log = logging.getLogger(__name__)

#: This long without a beat is an incident: 30 seconds plus the time between two checks.
NO_BEAT_MS = 40_000
_EVERY_SECONDS = 10.0


def watch_beat(signs: TroubleSigns, reporter: TroubleReporter, *, now_ms: int) -> bool:
    """Report an incident if there are jobs and no beat ticks; return whether that is so.

    Workers call this.
    """
    seen_ms = signs.leader_seen_at()
    if seen_ms is None or now_ms - seen_ms < NO_BEAT_MS or not signs.has_jobs():
        return False
    text = beat_text(seen_ms, now_ms) + " → celery -A hermes_celery beat"
    trouble = Trouble(kind=TroubleKind.BEAT, subject="", text=text, from_here=True)
    reporter.tell(trouble, now_ms=now_ms)
    return True


class BeatWatchdog:
    """Calls `watch_beat` every ten seconds, from a thread of a worker."""

    def __init__(self, signs: TroubleSigns, reporter: TroubleReporter, *, clock: Clock) -> None:
        self._signs = signs
        self._reporter = reporter
        self._clock = clock

    def start(self) -> None:
        """Start the thread; it ends with the process."""
        threading.Thread(target=self._loop, name="hermes-watch", daemon=True).start()

    def _loop(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(_EVERY_SECONDS)
            try:
                watch_beat(self._signs, self._reporter, now_ms=self._clock.now_ms())
            except StoreError as error:
                event(_log, "watch.failed", level=logging.WARNING, why=error)
            except Exception as error:  # noqa: BLE001 - the thread must survive any error
                event(_log, "watch.failed", level=logging.ERROR, exc_info=error, why=error)


def beat_text(seen_ms: int, now_ms: int) -> str:
    """Return the incident's text: how long no beat has ticked."""
    minutes, seconds = divmod((now_ms - seen_ms) // 1000, 60)
    return (
        f"no beat has ticked for {minutes} min {seconds} s, since {from_ms(seen_ms):%H:%M:%S} UTC"
    )
