"""Cuts connections to a server that the Sentinels no longer call the master.

A server that is killed closes its connections by itself. One that stands still, or is cut off,
keeps them: whoever asks it waits until the time limit, one connection after the other, and when it
comes back it answers as a master for some more seconds, though nobody will remember what it is
told. So each process that uses Sentinels asks them once a second who the master is, and ends its
connections to any other server. Who waits for an answer there gets an error at once and connects
anew.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

_EVERY_SECONDS = 1.0


class MasterWatch:
    """The connections of one process, and the thread that looks after them while there are any."""

    def __init__(self) -> None:
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._is_running = False

    def add(self, connection: Any) -> None:
        """Look after a connection from now on."""
        with self._lock:
            self._connections.add(connection)
            if self._is_running:
                return
            self._is_running = True
        threading.Thread(target=self._loop, name="hermes-sentinel", daemon=True).start()

    def _loop(self) -> None:
        while True:
            time.sleep(_EVERY_SECONDS)
            with self._lock:
                connections = list(self._connections)
                if not connections:
                    self._is_running = False
                    return
            self.look(connections)
            # Else the last one is kept alive by this name.
            del connections

    def look(self, connections: Iterable[Any]) -> None:
        """Ask once for each group of Sentinels, and cut what leads elsewhere."""
        groups: dict[object, list[Any]] = {}
        for connection in connections:
            groups.setdefault(_group(connection), []).append(connection)
        for members in groups.values():
            master = _master(members[0])
            for connection in members:
                if master is not None and (connection.host, connection.port) != master:
                    _cut(connection)


def _group(connection: Any) -> object:
    pool = connection.connection_pool
    known = (one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels)
    return pool.service_name, frozenset((one["host"], one["port"]) for one in known)


def _master(connection: Any) -> object:
    """The address of the master; None where no Sentinel can say it now."""
    pool = connection.connection_pool
    try:
        return pool.sentinel_manager.discover_master(pool.service_name)
    except Exception:  # noqa: BLE001 - whatever is wrong, who connects next says so
        return None


def _cut(connection: Any) -> None:
    used = connection._sock
    if used is not None:
        with suppress(OSError):
            # Not the method of a TLS socket, which another thread may be reading from.
            socket.socket.shutdown(used, socket.SHUT_RDWR)


_watches: dict[int, MasterWatch] = {}


def watch_master(connection: Any) -> None:
    """Let this process's thread look after a connection that was made through Sentinels."""
    # A pool process has a watch of its own: threads do not survive a fork.
    _watches.setdefault(os.getpid(), MasterWatch()).add(connection)
