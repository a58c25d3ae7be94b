"""Small writes that a worker's main loop must not wait for: done in one thread, in their order.

While Redis is away, or refuses, an errand is tried again for five minutes. What goes wrong with one
is logged, and the next one is done.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from hermes_celery.errors import RecordBroken, StoreError
from hermes_celery.log import event

_log = logging.getLogger(__name__)

_PATIENCE_SECONDS, _RETRY_SECONDS = 300.0, 1.0
#: More than that are not waited for: the newest go first then.
_MOST = 100_000


class Errands:
    """What is still to be done in one process."""

    def __init__(self, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._waiting: deque[tuple[str, Callable[[], object]]] = deque(maxlen=_MOST)
        self._changed = threading.Condition()
        self._is_busy = False
        self._thread: threading.Thread | None = None
        self._pause = pause

    def later(self, name: str, errand: Callable[[], object]) -> None:
        """Do it soon; `name` is what the log calls it."""
        with self._changed:
            self._waiting.append((name, errand))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._loop, name="hermes-errands", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def drain(self, seconds: float) -> bool:
        """Wait until all is done, so long at most; whether it is."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waiting and not self._is_busy, timeout=seconds
            )

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._waiting))
                name, errand = self._waiting.popleft()
                self._is_busy = True
            self._do(name, errand)

    def _do(self, name: str, errand: Callable[[], object]) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                errand()
                return
            except RecordBroken as error:
                event(_log, "errand.failed", level=logging.ERROR, what=name, why=error)
                return
            except StoreError as error:
                if time.monotonic() > deadline:
                    event(_log, "errand.given_up", level=logging.ERROR, what=name, why=error)
                    return
                self._pause(_RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001 - the others are still to be done
                event(_log, "errand.failed", level=logging.ERROR, what=name, why=error)
                return
