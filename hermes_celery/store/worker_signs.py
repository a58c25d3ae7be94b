"""Signs of life of workers and the queues that they consume, written every few seconds.

So `status` needs no broadcast. A living worker need not be a consuming one: its thread may go on
while its main loop asks for nothing (incompatible libraries, a wrong broker, a deadlock). So each
sign names the queues together with the last time when the main loop asked for messages and got an
answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from hermes_celery.core.readable import readable
from hermes_celery.errors import StoreUnavailable
from hermes_celery.events import RateLimitedLog, event
from hermes_celery.store import Database, QueueLoad, WorkerSign

_log = logging.getLogger(__name__)

INTERVAL_SECONDS = 3.0
#: A worker without a sign for this time counts as dead.
ALIVE_MS = 10_000

#: Takes the time (Unix ms); returns the worker's sign, and when it last took a message, by queue.
Look = Callable[[int], tuple[WorkerSign, dict[str, int]]]


class Presence:
    """A thread that writes one worker's sign of life."""

    def __init__(self, database: Database, *, name: str, look: Look) -> None:
        self._database = database
        self._load = QueueLoad(database)
        self._name = name
        self._look = look
        self._stopped = threading.Event()
        self._complaint = RateLimitedLog()
        self._thread = threading.Thread(target=self._loop, name="hermes-presence", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, which then removes the sign."""
        self._stopped.set()

    def _loop(self) -> None:
        while not self._stopped.is_set():
            self._safely(self.say)
            self._stopped.wait(INTERVAL_SECONDS)
        self._safely(lambda: self._load.say_goodbye(self._name))

    def say(self) -> None:
        """Write the sign once. Raises StoreError."""
        now_ms = self._database.now_ms()
        sign, taken = self._look(now_ms)
        self._load.say(self._name, sign, taken=taken, now_ms=now_ms)

    def _safely(self, say: Callable[[], object]) -> None:
        """Call `say` and log its errors; the next sign of life follows in seconds."""
        try:
            say()
        except StoreUnavailable:
            return
        except Exception as error:  # noqa: BLE001 - the thread must survive any error
            if self._complaint.may_say(time.monotonic()):
                event(_log, "presence.failed", level=logging.WARNING, why=error)


def alive(database: Database, *, now_ms: int) -> list[str]:
    """Return the names of the workers with a sign in the last ten seconds."""
    found = database.call("ZRANGEBYSCORE", database.keys.workers, now_ms - ALIVE_MS, "+inf")
    return sorted(readable(name) for name in found)


def node_of(name: str) -> str:
    """Return the Celery node name of a worker, without the process id that our hooks append."""
    node, _, pid = name.rpartition(":")
    return node if pid.isdecimal() else name
