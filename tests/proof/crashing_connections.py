"""Redis connections that kill or freeze their own process at the n-th call, or spoil a key.

Calls are counted where bytes leave the process: every command that a connection sends, including
the handshake of a new connection and the loading of a script. A pipeline is one call. `BEFORE`
means that the server never receives the call. `AFTER` means that the server has executed it and
its answer is never used.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import threading
from collections.abc import Callable
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import redis

from hermes_celery.store import lua
from hermes_celery.store.database import Database

#: A key that belongs to one job or run; group 1 is the job.
_OF_A_JOB = re.compile(r":[a-z]+:([0-9a-f]{12})\b")
#: Keys that hold strings: these are spoilt by a list, all others by a string.
_STRINGS = ("output:", "stderr:")
#: Commands whose keys are the arguments after the first.
_ALL_KEYS = ("DEL", "EXISTS", "UNLINK")
#: Reported when a call has no further key to spoil.
NO_KEY = "no key"


class Moment(StrEnum):
    """Before or after the call."""

    BEFORE = "before"
    AFTER = "after"


class Fate(StrEnum):
    """The fault that a process meets at its point."""

    #: kill -9.
    DIES = "dies"
    #: SIGSTOP: it goes on at SIGCONT, unaware of the time between.
    FREEZES = "freezes"
    #: The process goes on, but a key that the call touches gets another type.
    SPOILS = "spoils"


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """The call at which a process meets its fate; calls count from one."""

    call: int
    moment: Moment
    fate: Fate = Fate.DIES
    #: Position of the spoilt key among the call's keys that belong to one job.
    key: int = 0


class Calls:
    """Counts the calls of this process and executes the fate at the point."""

    def __init__(
        self,
        point: Point | None,
        *,
        url: str,
        report: Callable[[str], None],
        counts: Callable[[threading.Thread], bool] = lambda _: True,
    ) -> None:
        self._point = point
        self._url = url
        self._report = report
        self._counts = counts
        self._lock = threading.Lock()
        self.count = 0
        #: Whether the process was frozen at the point and goes on.
        self.resumed = False

    def sends(self, command: object) -> int:
        """Count a call before it is sent; return its number.

        Return 0 in a thread whose calls do not count.
        """
        if not self._counts(threading.current_thread()):
            return 0
        with self._lock:
            self.count += 1
            number = self.count
        self._meet(number, Moment.BEFORE, command)
        return number

    def answered(self, number: int, command: object) -> None:
        """Note that the server has executed the call."""
        self._meet(number, Moment.AFTER, command)

    def _meet(self, number: int, moment: Moment, command: object) -> None:
        point = self._point
        if point is None or (number, moment) != (point.call, point.moment):
            return
        if point.fate is Fate.SPOILS:
            self._spoil(command, point.key)
            return
        self._report(f"{moment.value} {_words(command)}")
        if point.fate is Fate.DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGSTOP)
        self.resumed = True

    def _spoil(self, command: object, number: int) -> None:
        keys = [key for key in _keys(_parts(command)) if _OF_A_JOB.search(key)]
        if number >= len(keys):
            self._report(NO_KEY)
            os._exit(os.EX_OK)
        spoil(self._url, keys[number])
        self._report(f"{_words(command)} spoils {keys[number]}")


def watch(database: Database, calls: Calls) -> Database:
    """Count the calls of a fresh database's connections; return the database."""
    pool = database.client.connection_pool
    pool.connection_class = watched(pool.connection_class, calls)
    return database


def watched(connection_class: type[Any], calls: Calls) -> type[Any]:
    """Return a class of connections whose calls are counted."""
    return type("Watched", (connection_class,), _methods(connection_class, calls))


def watch_class(connection_class: type[Any], calls: Calls) -> None:
    """Count the calls of every connection of a class from now on, in this process."""
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


def spoil(url: str, key: str) -> None:
    """Replace a key, or create it, with a value of another type."""
    client = redis.Redis.from_url(url)
    kind = client.type(key)
    client.delete(key)
    if kind == b"string" or any(f":{word}" in key for word in _STRINGS):
        client.rpush(key, "spoilt")
    else:
        client.set(key, "spoilt")
    client.close()


def spoilt_job(call: str) -> str:
    """Return the id of the job that the spoilt key in a report belongs to."""
    found = _OF_A_JOB.search(call)
    assert found is not None, call
    return found[1]


def _parts(command: object) -> list[str]:
    """Return the words of the first packed command."""
    packed = command if isinstance(command, list) else [command]
    whole = b"".join(part if isinstance(part, bytes) else str(part).encode() for part in packed)
    count, *lines = whole.split(b"\r\n")
    return [line.decode(errors="replace") for line in lines[1 : 2 * int(count[1:]) : 2]]


def _keys(words: list[str]) -> list[str]:
    """Return the keys that a command names."""
    name, *rest = words
    if name in ("EVALSHA", "EVAL"):
        return rest[2 : 2 + int(rest[1])]
    return rest if name in _ALL_KEYS else rest[:1]


def _words(command: object) -> str:
    """Return a readable name of a packed command; for EVALSHA with the script's name."""
    words = _parts(command)[:2]
    if words and words[0] == "EVALSHA":
        return f"EVALSHA {_digests().get(words[1], words[1])}"
    return words[0] if words else "?"


@cache
def _digests() -> dict[str, str]:
    """Return script names by the SHA-1 digest that EVALSHA sends."""
    folder = Path(lua.__file__).parent
    names = [path.stem for path in folder.glob("*.lua") if not path.stem.startswith("_")]
    return {hashlib.sha1(lua.source(name).encode()).hexdigest(): name for name in names}
