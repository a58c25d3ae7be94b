"""Which workers are there: each says so every few seconds, so that `status` needs no broadcast."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from hermes_celery.errors import StoreUnavailable
from hermes_celery.log import Seldom, event
from hermes_celery.store import Database
from hermes_celery.store.reading import readable

_log = logging.getLogger(__name__)

INTERVAL_SECONDS = 3.0
#: A worker that has said nothing for so long is not shown as alive.
ALIVE_MS = 10_000


class Presence:
    """One worker's sign of life, from a thread of its own."""

    def __init__(self, database: Database, *, name: str) -> None:
        self._database = database
        self._name = name
        self._stopped = threading.Event()
        self._complaint = Seldom()
        self._thread = threading.Thread(target=self._loop, name="hermes-presence", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye."""
        self._stopped.set()

    def _loop(self) -> None:
        keys = self._database.keys
        while not self._stopped.is_set():
            self._safely(
                lambda: self._database.call(
                    "ZADD", keys.workers, self._database.now_ms(), self._name
                )
            )
            self._stopped.wait(INTERVAL_SECONDS)
        self._safely(lambda: self._database.call("ZREM", keys.workers, self._name))

    def _safely(self, say: Callable[[], object]) -> None:
        """Say it, if that can be done; the next sign of life is seconds away."""
        try:
            say()
        except StoreUnavailable:
            return
        except Exception as error:  # noqa: BLE001 - the thread must outlive what it ran into
            if self._complaint.may_say(time.monotonic()):
                event(_log, "presence.failed", level=logging.WARNING, why=error)


def alive(database: Database, *, now_ms: int) -> list[str]:
    """The names of the workers that were seen in the last ten seconds."""
    found = database.call("ZRANGEBYSCORE", database.keys.workers, now_ms - ALIVE_MS, "+inf")
    return sorted(readable(name) for name in found)
