"""Redis connections that kill or freeze their own process at the n-th call.

Counted where bytes leave the process: every command that a connection sends, the handshake of a new
connection and the loading of a script included. A pipeline is one call. `BEFORE` means that the
server never hears of it; `AFTER` that it has done all of it, and the answer was never used.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Callable
from enum import StrEnum
from functools import cache
from typing import Any

import msgspec

from hermes_celery import lua
from hermes_celery.store.database import Database

#: Shown instead of the digest that EVALSHA sends.
_SCRIPTS = (
    "advance", "cancel", "claim", "fault", "finish", "heartbeat", "lease_release", "lease_renew",
    "lease_take", "lose", "put_job", "redeliver", "remove_job", "trigger",
)  # fmt: skip


class Moment(StrEnum):
    """On which side of the call."""

    BEFORE = "before"
    AFTER = "after"


class Fate(StrEnum):
    """What happens to the process there."""

    #: kill -9.
    DIES = "dies"
    #: SIGSTOP: it goes on when somebody says so, and knows nothing of the time between.
    FREEZES = "freezes"


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """Where in its calls a process meets its fate; calls count from one."""

    call: int
    moment: Moment
    fate: Fate = Fate.DIES


class Calls:
    """Counts the calls of this process, and carries out the fate at the point."""

    def __init__(
        self,
        point: Point | None,
        *,
        report: Callable[[str], None],
        counts: Callable[[threading.Thread], bool] = lambda _: True,
    ) -> None:
        self._point = point
        self._report = report
        self._counts = counts
        self._lock = threading.Lock()
        self.count = 0
        #: Whether the point was passed: the process was frozen and goes on.
        self.resumed = False

    def sends(self, command: object) -> int:
        """A call is about to be made; returns its number, 0 in a thread that does not count."""
        if not self._counts(threading.current_thread()):
            return 0
        with self._lock:
            self.count += 1
            number = self.count
        self._meet(number, Moment.BEFORE, command)
        return number

    def answered(self, number: int, command: object) -> None:
        """The server has done it."""
        self._meet(number, Moment.AFTER, command)

    def _meet(self, number: int, moment: Moment, command: object) -> None:
        point = self._point
        if point is None or (number, moment) != (point.call, point.moment):
            return
        self._report(f"{moment.value} {_words(command)}")
        if point.fate is Fate.DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGSTOP)
        self.resumed = True


def watch(database: Database, calls: Calls) -> Database:
    """Have every connection of a database, which must be fresh, counted."""
    pool = database.client.connection_pool
    pool.connection_class = watched(pool.connection_class, calls)
    return database


def watched(connection_class: type[Any], calls: Calls) -> type[Any]:
    """A class of connections whose calls are counted."""
    return type("Watched", (connection_class,), _methods(connection_class, calls))


def watch_class(connection_class: type[Any], calls: Calls) -> None:
    """Count the calls of every connection of a class from now on, in this whole process."""
    for name, method in _methods(connection_class, calls).items():
        setattr(connection_class, name, method)


def _methods(connection_class: type[Any], calls: Calls) -> dict[str, Any]:
    plain_send, plain_read = connection_class.send_packed_command, connection_class.read_response

    def send_packed_command(self: Any, command: Any, check_health: bool = True) -> None:
        number = calls.sends(command)
        plain_send(self, command, check_health)
        self.open_call = (number, command)

    def read_response(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return plain_read(self, *args, **kwargs)
        finally:
            open_call = getattr(self, "open_call", None)
            if open_call is not None:
                self.open_call = None
                calls.answered(*open_call)

    return {"send_packed_command": send_packed_command, "read_response": read_response}


def _words(command: object) -> str:
    """A packed command's name, and for a script the script's, for people."""
    packed = command if isinstance(command, list) else [command]
    whole = b"".join(part if isinstance(part, bytes) else str(part).encode() for part in packed)
    words = [word.decode(errors="replace") for word in whole.split(b"\r\n")[2:6:2]]
    if words and words[0] == "EVALSHA":
        return f"EVALSHA {_digests().get(words[1], words[1])}"
    return words[0] if words else "?"


@cache
def _digests() -> dict[str, str]:
    return {hashlib.sha1(lua.source(name).encode()).hexdigest(): name for name in _SCRIPTS}
