"""Does any beat tick?

Whoever asks is no beat: each worker does every ten seconds, since without a beat there is no leader
whose watchdog would. Some worker tells it, and the next leader that it is over.
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
    from hermes_celery.store import Signs

_log = logging.getLogger(__name__)

#: So long without a beat is trouble: half a minute, and the time between two looks.
NO_BEAT_MS = 40_000
_EVERY_SECONDS = 10.0


def watch_beat(signs: Signs, reporter: TroubleReporter, *, now_ms: int) -> bool:
    """For workers: tell when there are jobs and no beat ticks; whether that is so."""
    seen_ms = signs.leader_seen_at()
    if seen_ms is None or now_ms - seen_ms < NO_BEAT_MS or not signs.has_jobs():
        return False
    text = beat_text(seen_ms, now_ms) + " → celery -A hermes_celery beat"
    trouble = Trouble(kind=TroubleKind.BEAT, subject="", text=text, from_here=True)
    reporter.tell(trouble, now_ms=now_ms)
    return True


class BeatWatchdog:
    """`watch_beat` every ten seconds, from a thread of a worker."""

    def __init__(self, signs: Signs, reporter: TroubleReporter, *, clock: Clock) -> None:
        self._signs = signs
        self._reporter = reporter
        self._clock = clock

    def start(self) -> None:
        """Begin; it ends with the process."""
        threading.Thread(target=self._loop, name="hermes-watch", daemon=True).start()

    def _loop(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(_EVERY_SECONDS)
            try:
                watch_beat(self._signs, self._reporter, now_ms=self._clock.now_ms())
            except StoreError as error:
                event(_log, "watch.failed", level=logging.WARNING, why=error)
            except Exception as error:  # noqa: BLE001 - the thread must outlive what it ran into
                event(_log, "watch.failed", level=logging.ERROR, exc_info=error, why=error)


def beat_text(seen_ms: int, now_ms: int) -> str:
    """For how long no beat ticked."""
    minutes, seconds = divmod((now_ms - seen_ms) // 1000, 60)
    return (
        f"no beat has ticked for {minutes} min {seconds} s, since {from_ms(seen_ms):%H:%M:%S} UTC"
    )
