"""A client for an address: a server, a socket, or the server that Sentinels name.

A connection that says nothing for 5 s counts as dead. A command that failed for lack of a
connection is tried three times within a second: every script here may be run twice. Where each try
takes long (a server that accepts and never answers) there is no new one after 6 s, so that a first
look takes 10 s, not 80.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.connection import HiredisRespSerializer
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection
from redis.utils import HIREDIS_AVAILABLE

from hermes_celery.core.server_address import ServerAddress, parse_address
from hermes_celery.errors import StoreUnsuitable
from hermes_celery.store.master_watch import watch_master

SOCKET_TIMEOUT_SECONDS = 5
HEALTH_CHECK_SECONDS = 10
#: A Sentinel that does not answer costs so long; the next one is asked.
SENTINEL_TIMEOUT_SECONDS = 2
_NEW_TRY_SECONDS = 6.0
_T = TypeVar("_T")


class _TimelyRetry(Retry):
    """Begins no new try when the tries so far took long."""

    __hash__ = Retry.__hash__

    def call_with_retry(
        self, do: Callable[[], _T], fail: Any, is_retryable: Any = None, *args: Any, **kwargs: Any
    ) -> _T:
        """As redis-py's."""
        until = time.monotonic() + _NEW_TRY_SECONDS

        def is_timely(error: Exception) -> bool:
            return time.monotonic() < until and (is_retryable is None or is_retryable(error))

        return super().call_with_retry(do, fail, is_timely, *args, **kwargs)


def _quick_retry() -> Retry:
    return _TimelyRetry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), 3)


def connect(where: str | ServerAddress) -> redis.Redis:
    """A client; connects when first used. Raises StoreUnsuitable for an address that is none."""
    address = _parsed(where) if isinstance(where, str) else where
    options = _options(address)
    _check_files(address)
    pool = _sentinel_pool(address, options) if address.master_name else _pool(address, options)
    try:
        # Options that nobody knows are found here, not when the first command is sent.
        pool.make_connection()
    except (TypeError, ValueError, redis.exceptions.RedisError) as error:
        raise StoreUnsuitable(
            f"{address.tls_named if address.tls else address.named} cannot be used: {error}"
        ) from None
    return redis.Redis.from_pool(pool)


def sentinel_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """How Sentinels are asked: one that is away or frozen must not keep us from the next one."""
    return {
        "socket_timeout": SENTINEL_TIMEOUT_SECONDS,
        "socket_connect_timeout": SENTINEL_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        **given,
    }


def _parsed(url: str) -> ServerAddress:
    try:
        return parse_address(url)
    except ValueError as error:
        raise StoreUnsuitable(f"this is no Redis URL: {error}") from None


def _options(address: ServerAddress) -> dict[str, Any]:
    """What redis-py is told of each connection."""
    login: dict[str, Any] = {
        "username": address.username or None, "password": address.password or None
    }  # fmt: skip
    if address.credential_provider is not None:
        login = {"credential_provider": address.credential_provider}
    return {
        "db": address.database,
        **login,
        "decode_responses": True,
        # What is no UTF-8 is read all the same, and goes back as the bytes that it was.
        "encoding_errors": "surrogateescape",
        "command_packer": _BytesPacker() if HIREDIS_AVAILABLE else None,
        "socket_timeout": SOCKET_TIMEOUT_SECONDS,
        "socket_connect_timeout": SOCKET_TIMEOUT_SECONDS,
        "health_check_interval": HEALTH_CHECK_SECONDS,
        **address.options,
        **(address.tls or {}),
        "retry": _quick_retry(),
        # After a failover its name may mean another server: connect anew.
        "retry_on_error": [redis.exceptions.ReadOnlyError],
    }


def _pool(address: ServerAddress, options: Mapping[str, Any]) -> redis.ConnectionPool:
    if address.path:
        known = {name: value for name, value in options.items() if "keepalive" not in name}
        return redis.ConnectionPool(redis.UnixDomainSocketConnection, path=address.path, **known)
    host, port = address.servers[0]
    kind = redis.Connection if address.tls is None else redis.SSLConnection
    return redis.ConnectionPool(kind, host=host, port=port, **options)


def _sentinel_pool(address: ServerAddress, options: Mapping[str, Any]) -> redis.ConnectionPool:
    try:
        sentinels = Sentinel(  # type: ignore[no-untyped-call]  # redis-py's
            address.servers,
            min_other_sentinels=address.min_other_sentinels,
            sentinel_kwargs=sentinel_options(address.sentinel_options),
        )
    except TypeError as error:
        raise StoreUnsuitable(f"the options of the Sentinels cannot be used: {error}") from None
    kind = MasterConnection if address.tls is None else MasterTlsConnection
    pool: redis.ConnectionPool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
        address.master_name, sentinels, connection_class=kind, **options
    )
    return pool


class MasterConnection(SentinelManagedConnection):
    """A connection that asks the Sentinels whenever it connects.

    redis-py 8 connects again inside a command without asking, to the server that it knew: to one
    that stands still, or is a replica by now, again and again. And it waits up to 15 s between its
    tries, in the middle of kombu's loop; here it gives up in a second, and Celery connects anew.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            **{"retry": _quick_retry(), **options}
        )

    def connect_check_health(
        self, check_health: bool = True, retry_socket_connect: bool = True
    ) -> None:
        """Connect to the server that is the master now; as redis-py's in all else."""
        if self._sock is None:
            self.host, self.port = self.connection_pool.get_master_address()
            # Before it says hello: that may be to a server that stands still.
            watch_master(self)
        super().connect_check_health(check_health=check_health, retry_socket_connect=False)

    def _connect_retry(self) -> None:
        self.connect_check_health(check_health=self.connection_pool.check_connection)


class MasterTlsConnection(MasterConnection, redis.SSLConnection):
    """The same with TLS."""


def _check_files(address: ServerAddress) -> None:
    """Refuse certificates that cannot be read: waiting for the server would not help."""
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        path = (address.tls or {}).get(name)
        if path and not os.access(path, os.R_OK):
            raise StoreUnsuitable(
                f"{address.tls_named}: {name} is {path}, which cannot be read here; correct the "
                "path, or let this user read the file"
            )


class _BytesPacker(HiredisRespSerializer):
    """Sends a text that was read from bytes which are no UTF-8 as those bytes.

    redis-py does so by itself where hiredis is not installed.
    """

    def pack(self, *args: Any) -> Any:
        """The command as it goes onto the wire."""
        try:
            return super().pack(*args)
        except UnicodeEncodeError:
            return super().pack(*map(_as_bytes, args))


def _as_bytes(part: Any) -> Any:
    return part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
