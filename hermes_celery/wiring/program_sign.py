"""Builds the sign that a beat or worker is alive; it stops a program that has become too old."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from hermes_celery.clock import ServerClock
from hermes_celery.settings import Settings
from hermes_celery.store import Formats
from hermes_celery.store.program_signs import ProgramSign
from hermes_celery.wiring.server import open_database


def make_sign(
    settings: Settings,
    *,
    name: str,
    also: Callable[[], None] = lambda: None,
    at_end: Callable[[], None] = lambda: None,
) -> ProgramSign:
    """Return the sign that this beat or worker is alive.

    If a newer version has written to the store, the program stops itself with SIGTERM. `also` is
    called with each sign to write more, and `at_end` is called once to withdraw that.
    """
    database = open_database(settings)
    return ProgramSign(
        Formats(database),
        name=name,
        clock=ServerClock(database.now_ms),
        stop_program=lambda: os.kill(os.getpid(), signal.SIGTERM),
        also=also,
        at_end=at_end,
    )
