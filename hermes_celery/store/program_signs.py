"""Which programs are there and what they read: each beat and worker says so every few seconds.

So a newer program knows when the older ones are gone. The other way round, a program that hears
that it cannot read any more what is stored says so and stops.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from hermes_celery.errors import FormatTooNew, StoreError
from hermes_celery.events import RateLimitedLog, event

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.store import Formats

_log = logging.getLogger(__name__)
INTERVAL_SECONDS = 3.0


class ProgramSign:
    """One program's sign, from a thread of its own."""

    def __init__(
        self,
        formats: Formats,
        *,
        name: str,
        clock: Clock,
        stop_program: Callable[[], None],
        besides: Callable[[], None] = lambda: None,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`name` begins with what the program is, `beat` or `worker`.

        `besides` is what else it says each time, and `at_end` takes that back.
        """
        self._formats = formats
        self._name = name
        self._clock = clock
        self._stop_program = stop_program
        self._besides = besides
        self._at_end = at_end
        self._complaint = RateLimitedLog()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="hermes-program", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye; where that fails, ten seconds of silence say it."""
        self._stopped.set()
        with suppress(StoreError):
            self._formats.say_gone(self._name)
            self._at_end()

    def say(self) -> None:
        """Say it once; the program is stopped when what is stored has become too new for it."""
        try:
            self._formats.say_here(self._name, now_ms=self._clock.now_ms())
            self._besides()
        except FormatTooNew as error:
            event(_log, "program.too_old", level=logging.ERROR, why=error)
            self._stopped.set()
            self._stop_program()
        except StoreError as error:
            if self._complaint.may_say(self._clock.monotonic()):
                event(_log, "program.unheard", level=logging.WARNING, why=error)
        else:
            self._complaint.over()

    def _loop(self) -> None:
        while not self._stopped.is_set():
            self.say()
            self._stopped.wait(INTERVAL_SECONDS)
