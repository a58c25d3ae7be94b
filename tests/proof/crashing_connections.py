"""Redis connections that kill or freeze their own process at the n-th call, or spoil a key of it.

Counted where bytes leave the process: every command that a connection sends, the handshake of a new
connection and the loading of a script included. A pipeline is one call. `BEFORE` means that the
server never hears of it; `AFTER` that it has done all of it, and the answer was never used.
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
#: Keys that are strings where they exist: another type for them is a list, for others a string.
_STRINGS = ("output:", "stderr:")
#: Commands whose keys are the arguments after the first.
_ALL_KEYS = ("DEL", "EXISTS", "UNLINK")
#: A call has no key (left) to spoil.
NO_KEY = "no key"


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
    #: Nothing, but a key that the call touches is suddenly of another type.
    SPOILS = "spoils"


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """Where in its calls a process meets its fate; calls count from one."""

    call: int
    moment: Moment
    fate: Fate = Fate.DIES
    #: Which of the call's keys is spoilt; only those count that belong to one job.
    key: int = 0


class Calls:
    """Counts the calls of this process, and carries out the fate at the point."""

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


def spoil(url: str, key: str) -> None:
    """Put a value of another type where a key is, or would be."""
    client = redis.Redis.from_url(url)
    kind = client.type(key)
    client.delete(key)
    if kind == b"string" or any(f":{word}" in key for word in _STRINGS):
        client.rpush(key, "spoilt")
    else:
        client.set(key, "spoilt")
    client.close()


def spoilt_job(call: str) -> str:
    """The job that a spoilt key belongs to, of a report."""
    found = _OF_A_JOB.search(call)
    assert found is not None, call
    return found[1]


def _parts(command: object) -> list[str]:
    """The words of the first command that was packed."""
    packed = command if isinstance(command, list) else [command]
    whole = b"".join(part if isinstance(part, bytes) else str(part).encode() for part in packed)
    count, *lines = whole.split(b"\r\n")
    return [line.decode(errors="replace") for line in lines[1 : 2 * int(count[1:]) : 2]]


def _keys(words: list[str]) -> list[str]:
    """The keys that a command names."""
    name, *rest = words
    if name in ("EVALSHA", "EVAL"):
        return rest[2 : 2 + int(rest[1])]
    return rest if name in _ALL_KEYS else rest[:1]


def _words(command: object) -> str:
    """A packed command's name, and for a script the script's, for people."""
    words = _parts(command)[:2]
    if words and words[0] == "EVALSHA":
        return f"EVALSHA {_digests().get(words[1], words[1])}"
    return words[0] if words else "?"


@cache
def _digests() -> dict[str, str]:
    """Shown instead of the digest that EVALSHA sends."""
    folder = Path(lua.__file__).parent
    names = [path.stem for path in folder.glob("*.lua") if not path.stem.startswith("_")]
    return {hashlib.sha1(lua.source(name).encode()).hexdigest(): name for name in names}
