"""A master, replicas and three Sentinels of Debian on loopback, set to fail over quickly."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from hermes_celery.store import Database, connect
from tests.redis_servers import RedisServer, free_port
from tests.support import eventually

NAME = "mymaster"
#: Milliseconds without an answer after which a Sentinel takes a server for dead.
DOWN_AFTER_MS = 700


class Sentinels:
    """A master, its replicas and their Sentinels; a context manager."""

    def __init__(
        self,
        place: Path,
        *options: str,
        replicas: int = 1,
        sentinel_lines: str = "",
        login: str = "",
    ) -> None:
        """Pass `options` to all servers; write `sentinel_lines` into each Sentinel's file."""
        self._place = place
        quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        self.servers = [
            RedisServer(place / str(number), *quick, *options) for number in range(1 + replicas)
        ]
        self.ports = [free_port() for _ in range(3)]
        self._lines = sentinel_lines
        self._running: list[subprocess.Popen[bytes]] = []
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.url = f"sentinel://{login}{hosts}/0?master_name={NAME}"
        #: The same address as a Celery broker URL; Celery reads the master's name from its
        #: transport options.
        self.broker = ";".join(f"sentinel://{login}127.0.0.1:{port}/0" for port in self.ports)

    def __enter__(self) -> Sentinels:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        first, *others = self.servers
        first.start()
        for other in others:
            other.start()
            self._ask(other.port, lambda server: server.replicaof("127.0.0.1", first.port))
        for port in self.ports:
            self._start_sentinel(port, first.port)
        eventually(self._is_whole, what="Sentinels that know each other and the replica")

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        for server in self.servers:
            server.end()

    def _start_sentinel(self, port: int, master: int) -> None:
        path = self._place / f"sentinel-{port}.conf"
        path.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self._place}\n"
            f"sentinel monitor {NAME} 127.0.0.1 {master} 2\n"
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {NAME} 3000\n{self._lines}",
            encoding="utf-8",
        )
        with path.with_suffix(".log").open("wb") as log:
            command = ["redis-server", str(path), "--sentinel"]
            self._running.append(subprocess.Popen(command, stdout=log, stderr=log))

    def _ask(self, port: int, question: Callable[[Any], Any]) -> Any:
        """Return the answer of a server or Sentinel; None if it gives none."""
        with redis.Redis(port=port, decode_responses=True, socket_timeout=3) as client:
            try:
                return question(client)
            except redis.exceptions.RedisError:
                return None

    def _is_whole(self) -> bool:
        return all(self._sees(port) for port in self.ports)

    def _sees(self, port: int) -> bool:
        masters = self._ask(port, lambda sentinel: sentinel.sentinel_masters()) or {}
        replicas = self._ask(port, lambda sentinel: sentinel.sentinel_slaves(NAME)) or []
        well = [
            one for one in replicas if one["master-link-status"] == "ok" and not one["is_sdown"]
        ]
        knows_all = masters.get(NAME, {}).get("num-other-sentinels") == len(self.ports) - 1
        return knows_all and len(well) == len(self.servers) - 1

    def _named_by(self, port: int) -> int | None:
        """Return the port of the master according to one Sentinel."""
        address = self._ask(port, lambda sentinel: sentinel.sentinel_get_master_addr_by_name(NAME))
        return None if address is None else int(address[1])

    @property
    def master(self) -> RedisServer:
        """The server that the first Sentinel names as the master."""
        named = self._named_by(self.ports[0])
        return next(one for one in self.servers if one.port == named)

    def await_failover(self, before: RedisServer) -> RedisServer:
        """Wait until all Sentinels name another master than `before`; return the new master."""

        def is_there() -> bool:
            named = {self._named_by(port) for port in self.ports}
            return len(named) == 1 and not named & {before.port, None}

        eventually(is_there, what="a failover")
        return self.master

    def fail_over(self) -> None:
        """Ask a Sentinel to make a replica the master now."""
        self._ask(self.ports[0], lambda sentinel: sentinel.sentinel_failover(NAME))

    def await_demoted(self, server: RedisServer) -> None:
        """Wait until a server that came back has become a replica."""

        def is_replica() -> bool:
            info = self._ask(server.port, lambda client: client.info("replication")) or {}
            return info.get("role") == "slave"

        eventually(is_replica, seconds=60, what="the old master as a replica")

    def await_replica(self) -> None:
        """Wait until all replicas are in sync again and every Sentinel sees them."""
        eventually(self._is_whole, seconds=60, what="every replica in sync")

    def database(self, **options: Any) -> Database:
        """Return a database connected through the Sentinels."""
        return Database(connect(self.url), **options)
