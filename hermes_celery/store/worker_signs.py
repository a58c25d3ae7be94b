"""Which workers are there, and what they consume: each says so every few seconds.

So `status` needs no broadcast. That a worker lives and that it consumes are two things: its thread
can go on while its main loop asks for nothing (a broken pair of libraries, a wrong broker, a
deadlock). Hence a worker names its queues together with the instant at which its main loop last
asked for messages and was answered.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from hermes_celery.core.readable import readable
from hermes_celery.errors import StoreUnavailable
from hermes_celery.events import RateLimitedLog, event
from hermes_celery.store import Database, Load, WorkerSign

_log = logging.getLogger(__name__)

INTERVAL_SECONDS = 3.0
#: A worker that has said nothing for so long is not shown as alive.
ALIVE_MS = 10_000

#: What a worker says of itself at an instant (Unix ms), and when it took messages of which queue.
Look = Callable[[int], tuple[WorkerSign, dict[str, int]]]


class Presence:
    """One worker's sign of life, from a thread of its own."""

    def __init__(self, database: Database, *, name: str, look: Look) -> None:
        self._database = database
        self._load = Load(database)
        self._name = name
        self._look = look
        self._stopped = threading.Event()
        self._complaint = RateLimitedLog()
        self._thread = threading.Thread(target=self._loop, name="hermes-presence", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye."""
        self._stopped.set()

    def _loop(self) -> None:
        while not self._stopped.is_set():
            self._safely(self.say)
            self._stopped.wait(INTERVAL_SECONDS)
        self._safely(lambda: self._load.say_goodbye(self._name))

    def say(self) -> None:
        """Say once what there is to say. Raises StoreError."""
        now_ms = self._database.now_ms()
        sign, taken = self._look(now_ms)
        self._load.say(self._name, sign, taken=taken, now_ms=now_ms)

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


def node_of(name: str) -> str:
    """Celery's node name of a worker with hooks, whose own name ends with its process id."""
    node, _, pid = name.rpartition(":")
    return node if pid.isdecimal() else name
