"""Cut connections to servers that the Sentinels no longer call the master.

A killed server closes its connections by itself. A frozen or unreachable server keeps them: each
command waits until its timeout, one connection after the other. When such a server comes back, it
acts as a master for some more seconds, and writes to it are lost. So each process that uses
Sentinels asks them once a second for the master, and cuts its connections to any other server. A
command that waits there fails at once, and its caller connects again.
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
    """Watches the connections of one process, with a thread that runs while there are any."""

    def __init__(self) -> None:
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._is_running = False

    def add(self, connection: Any) -> None:
        """Watch a connection from now on."""
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
            # This reference would keep the last connection alive.
            del connections

    def look(self, connections: Iterable[Any]) -> None:
        """Ask each group of Sentinels once, and cut connections to other servers."""
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
    """Return the address of the master; None when no Sentinel can name it now."""
    pool = connection.connection_pool
    try:
        return pool.sentinel_manager.discover_master(pool.service_name)
    except Exception:  # noqa: BLE001 - the next connect reports the error
        return None


def _cut(connection: Any) -> None:
    used = connection._sock
    if used is not None:
        with suppress(OSError):
            # Not `used.shutdown`: on a TLS socket it is unsafe while another thread reads.
            socket.socket.shutdown(used, socket.SHUT_RDWR)


_watches: dict[int, MasterWatch] = {}


def watch_master(connection: Any) -> None:
    """Let this process watch a connection that was made through Sentinels."""
    # A pool process has a watch of its own: threads do not survive a fork.
    _watches.setdefault(os.getpid(), MasterWatch()).add(connection)
