"""Which workers are there: each says so every few seconds, so that `status` needs no broadcast."""

from __future__ import annotations

import threading

from hermes_celery.errors import StoreError
from hermes_celery.store import Database
from hermes_celery.store.reading import readable

INTERVAL_SECONDS = 3.0
#: A worker that has said nothing for so long is not shown as alive.
ALIVE_MS = 10_000


class Presence:
    """One worker's sign of life, from a thread of its own."""

    def __init__(self, database: Database, *, name: str) -> None:
        self._database = database
        self._name = name
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="hermes-presence", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye."""
        self._stopped.set()

    def _loop(self) -> None:
        while not self._stopped.is_set():
            self._say("ZADD", self._database.keys.workers, self._safe_now(), self._name)
            self._stopped.wait(INTERVAL_SECONDS)
        self._say("ZREM", self._database.keys.workers, self._name)

    def _say(self, *command: str | int) -> None:
        try:
            self._database.call(*command)
        except StoreError:
            return  # the next sign of life is seconds away

    def _safe_now(self) -> int:
        try:
            return self._database.now_ms()
        except StoreError:
            return 0


def alive(database: Database, *, now_ms: int) -> list[str]:
    """The names of the workers that were seen in the last ten seconds."""
    found = database.call("ZRANGEBYSCORE", database.keys.workers, now_ms - ALIVE_MS, "+inf")
    return sorted(readable(name) for name in found)
