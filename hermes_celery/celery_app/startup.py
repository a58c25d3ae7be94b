"""Lets a worker or beat wait at its start for a server that is away.

`broker_connection_retry_on_startup` says whether it waits, as for Celery's own connection, and
`broker_connection_max_retries` for how long. An error that waiting cannot repair (a wrong password,
a server that is too old) ends the start at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from hermes_celery.errors import StoreUnavailable

if TYPE_CHECKING:
    from celery import Celery

_PAUSE_SECONDS = 1.0
#: kombu waits 2 s before its second try, 2 s more before each further one, at most 30 s.
_STEP_SECONDS, _LONGEST_SECONDS = 2, 30


def patience_seconds(app: Celery) -> float:
    """Return how long a start of this app waits for its server, from Celery's settings."""
    is_patient = app.conf.broker_connection_retry_on_startup
    if is_patient is None:
        is_patient = app.conf.broker_connection_retry
    if not is_patient:
        return 0.0
    tries = app.conf.broker_connection_max_retries
    if not tries:
        return float("inf")
    return sum(min(_STEP_SECONDS * number, _LONGEST_SECONDS) for number in range(1, tries + 1))


def until_it_answers(
    look: Callable[[], None],
    *,
    seconds: float,
    say: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Call `look` until it raises no StoreUnavailable; raise the last one when time is up.

    Calls `say` once when the wait begins, and again when it is over.
    """
    until, was_said = time.monotonic() + seconds, False
    while True:
        try:
            look()
            break
        except StoreUnavailable as error:
            if time.monotonic() >= until:
                raise
            if not was_said:
                say(f"Waiting: {error}. Trying again until it answers "
                    "(broker_connection_retry_on_startup)")  # fmt: skip
            was_said = True
        pause(_PAUSE_SECONDS)
    if was_said:
        say("The server answers; continuing")
