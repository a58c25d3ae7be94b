"""Signs of life of programs: each beat and worker writes its stored format every few seconds.

So a newer program knows when the older ones are gone. In turn, a program stops with an error as
soon as it can no longer read what is stored.
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
    """A thread that writes one program's sign of life."""

    def __init__(
        self,
        formats: Formats,
        *,
        name: str,
        clock: Clock,
        stop_program: Callable[[], None],
        also: Callable[[], None] = lambda: None,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`name` begins with the kind of program, `beat` or `worker`.

        `also` is called with each sign, to write more about the program; `at_end` removes that
        again.
        """
        self._formats = formats
        self._name = name
        self._clock = clock
        self._stop_program = stop_program
        self._also = also
        self._at_end = at_end
        self._complaint = RateLimitedLog()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="hermes-program", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop and remove the sign; if that fails, it expires after ten seconds."""
        self._stopped.set()
        with suppress(StoreError):
            self._formats.say_gone(self._name)
            self._at_end()

    def say(self) -> None:
        """Write the sign once; stop the program if the stored format has become too new for it."""
        try:
            self._formats.say_here(self._name, now_ms=self._clock.now_ms())
            self._also()
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
