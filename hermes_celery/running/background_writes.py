"""Do small writes in one background thread, in order, so that a worker's main loop never waits.

While Redis is unreachable or refuses, a write is tried again for five minutes. Any other error is
logged, and the next write is done. If too many writes wait, the oldest are dropped: the log says
how many, and `drain` returns False. A forked process starts with an empty queue and its own thread.
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
#: The most writes that may wait.
_MOST = 100_000


class BackgroundWrites:
    """The pending writes of one process."""

    def __init__(
        self,
        *,
        pause: Callable[[float], None] = time.sleep,
        most: int = _MOST,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """Keep at most `most` pending writes, and try each for `patience_seconds`."""
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
        #: Writes not done since the last complete `drain`; writes dropped in total.
        self._undone = self._dropped = 0

    def _begin_after_fork(self) -> None:
        # The parent does the pending writes, and its thread may have held the lock.
        if self._pid != os.getpid():
            self._begin()
            self._pid = os.getpid()

    def later(self, name: str, write: Callable[[], object]) -> None:
        """Queue a write; `name` describes it in the log."""
        self._begin_after_fork()
        with self._changed:
            if len(self._waiting) >= self._most:
                self._drop()
            self._waiting.append((name, write))
            self._ensure_thread()
            self._changed.notify_all()

    def _ensure_thread(self) -> None:
        """Start the thread if it is not running; log a failure and leave it to the next call.

        It must not raise: callers are Celery's own loops, which an error would end.
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
        """Wait up to `seconds` for all writes; return whether all were done.

        A write that failed or was dropped since the last complete `drain` also makes it False.
        """
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
        """Do one write; return False if Redis did not accept it in time."""
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
            except Exception as error:  # noqa: BLE001 - the other writes must go on
                event(_log, "write.failed", level=logging.ERROR, what=name, why=error)
                return True
