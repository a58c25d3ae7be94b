"""Tests that connections to a server that is no longer the master are cut, and no others."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any

import redis

from hermes_celery.store.master_watch import MasterWatch


class Named:
    """Sentinels that name a master, or raise that there is none."""

    def __init__(self, master: tuple[str, int] | None) -> None:
        self.sentinels: list[Any] = []
        self.master = master
        self.asked = 0

    def discover_master(self, _name: str) -> tuple[str, int]:
        self.asked += 1
        if self.master is None:
            raise redis.sentinel.MasterNotFoundError("none")
        return self.master


@dataclass(frozen=True)
class Pool:
    """The part of a connection pool that the watch reads."""

    sentinel_manager: Named
    service_name: str = "mymaster"


@dataclass(eq=False)
class Connection:
    """A connection whose other end the test holds."""

    host: str
    port: int
    connection_pool: Pool
    ends: tuple[socket.socket, socket.socket] = field(default_factory=socket.socketpair)

    @property
    def _sock(self) -> socket.socket:
        return self.ends[0]

    def is_cut(self) -> bool:
        self.ends[1].setblocking(False)
        try:
            return self.ends[1].recv(1) == b""
        except BlockingIOError:
            return False

    def close(self) -> None:
        for end in self.ends:
            end.close()


def test_only_connections_to_another_server_are_cut_and_sentinels_are_asked_once() -> None:
    sentinels = Named(("new", 1))
    old, new = (Connection(name, 1, Pool(sentinels)) for name in ("old", "new"))
    MasterWatch().look([old, new])
    assert (old.is_cut(), new.is_cut(), sentinels.asked) == (True, False, 1)
    old.close()
    new.close()


def test_no_connection_is_cut_while_there_is_no_master() -> None:
    old = Connection("old", 1, Pool(Named(None)))
    MasterWatch().look([old])
    assert not old.is_cut()
    old.close()
