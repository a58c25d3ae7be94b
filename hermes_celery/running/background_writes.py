"""Small writes that a worker's main loop must not wait for: done in one thread, in their order.

While Redis is away, or refuses, a write is tried again for five minutes. What goes wrong with one
is logged, and the next one is done. Where too many wait, the oldest are dropped: the log says how
many, and `drain` that not all is done. A forked process begins with none, in a thread of its own.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable

from hermes_celery.errors import RecordBroken, StoreError
from hermes_celery.events import RateLimitedLog, event

_log = logging.getLogger(__name__)

_PATIENCE_SECONDS, _RETRY_SECONDS = 300.0, 1.0
#: More than that do not wait.
_MOST = 100_000


class BackgroundWrites:
    """What is still to be done in one process."""

    def __init__(
        self,
        *,
        pause: Callable[[float], None] = time.sleep,
        most: int = _MOST,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """At most so many wait, and each is tried so long while Redis does not take it."""
        self._pause = pause
        self._most = most
        self._patience_seconds = patience_seconds
        self._complaint, self._no_thread = RateLimitedLog(), RateLimitedLog()
        self._begin()
        self._pid = os.getpid()

    def _begin(self) -> None:
        self._waiting: deque[tuple[str, Callable[[], object]]] = deque()
        self._changed = threading.Condition()
        self._is_busy = False
        self._thread: threading.Thread | None = None
        #: Since all was done the last time, and ever.
        self._undone = self._dropped = 0

    def _begin_after_fork(self) -> None:
        # What waited is the parent's to do, and its thread may have held the lock.
        if self._pid != os.getpid():
            self._begin()
            self._pid = os.getpid()

    def later(self, name: str, write: Callable[[], object]) -> None:
        """Do it soon; `name` is what the log calls it."""
        self._begin_after_fork()
        with self._changed:
            if len(self._waiting) >= self._most:
                self._drop()
            self._waiting.append((name, write))
            self._ensure_thread()
            self._changed.notify_all()

    def _ensure_thread(self) -> None:
        """Start the thread if there is none; where it cannot be started, whoever comes next tries.

        Celery's own code calls, and what it would meet here ended it.
        """
        if self._thread is not None and self._thread.is_alive():
            return
        thread = threading.Thread(target=self._loop, name="hermes-writes", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            # The system has no thread left, or Python is ending.
            if self._no_thread.may_say(time.monotonic()):
                event(_log, "writes.no_thread", level=logging.ERROR, why=error)
            return
        self._thread = thread

    def _drop(self) -> None:
        name, _ = self._waiting.popleft()
        self._undone += 1
        self._dropped += 1
        if self._complaint.may_say(time.monotonic()):
            event(_log, "write.dropped", level=logging.ERROR, what=name, dropped=self._dropped)

    def drain(self, seconds: float) -> bool:
        """Wait until nothing waits, so long at most; whether all was done since the last time."""
        self._begin_after_fork()
        with self._changed:
            if self._waiting:
                self._ensure_thread()
            is_empty = self._changed.wait_for(
                lambda: not self._waiting and not self._is_busy, timeout=seconds
            )
            undone = self._undone
            if is_empty:
                self._undone = 0
        if undone:
            event(_log, "writes.undone", level=logging.ERROR, count=undone)
        return is_empty and not undone

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._waiting))
                name, write = self._waiting.popleft()
                self._is_busy = True
            if not self._do(name, write):
                with self._changed:
                    self._undone += 1

    def _do(self, name: str, write: Callable[[], object]) -> bool:
        """Do it; False where Redis did not take it in time."""
        deadline = time.monotonic() + self._patience_seconds
        while True:
            try:
                write()
                return True
            except RecordBroken as error:
                event(_log, "write.failed", level=logging.ERROR, what=name, why=error)
                return True
            except StoreError as error:
                if time.monotonic() > deadline:
                    event(_log, "write.given_up", level=logging.ERROR, what=name, why=error)
                    return False
                self._pause(_RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001 - the others are still to be done
                event(_log, "write.failed", level=logging.ERROR, what=name, why=error)
                return True
