"""Create a Redis client for an address: a server, a socket, or the master that Sentinels name.

A connection without an answer for 5 s counts as dead. A command that fails on a broken connection
is retried up to three times within a second; that is safe, since every script here may run twice.
No retry begins later than 6 s after the first try. So a server that accepts connections and never
answers fails the first command after 10 s, not 80.
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
#: How long one Sentinel may take to answer before the next one is asked.
SENTINEL_TIMEOUT_SECONDS = 2
_NEW_TRY_SECONDS = 6.0
_T = TypeVar("_T")


class _TimelyRetry(Retry):
    """Begins no retry later than `_NEW_TRY_SECONDS` after the first try."""

    __hash__ = Retry.__hash__

    def call_with_retry(
        self, do: Callable[[], _T], fail: Any, is_retryable: Any = None, *args: Any, **kwargs: Any
    ) -> _T:
        """Call `do` as redis-py does, without late retries."""
        until = time.monotonic() + _NEW_TRY_SECONDS

        def is_timely(error: Exception) -> bool:
            return time.monotonic() < until and (is_retryable is None or is_retryable(error))

        return super().call_with_retry(do, fail, is_timely, *args, **kwargs)


def _quick_retry() -> Retry:
    return _TimelyRetry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), 3)


def connect(where: str | ServerAddress) -> redis.Redis:
    """Return a client that connects at its first use.

    Raises StoreUnsuitable for an unusable address or unknown options.
    """
    address = _parsed(where) if isinstance(where, str) else where
    options = _options(address)
    _check_files(address)
    pool = _sentinel_pool(address, options) if address.master_name else _pool(address, options)
    try:
        # Report unknown options here, not at the first command.
        pool.make_connection()
    except (TypeError, ValueError, redis.exceptions.RedisError) as error:
        raise StoreUnsuitable(
            f"{address.tls_named if address.tls else address.named} cannot be used: {error}"
        ) from None
    return redis.Redis.from_pool(pool)


def sentinel_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return redis-py's options for Sentinel connections.

    They time out quickly and do not retry: if one Sentinel is down or frozen, the next one is
    asked.
    """
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
        raise StoreUnsuitable(f"this is not a Redis URL: {error}") from None


def _options(address: ServerAddress) -> dict[str, Any]:
    """Return redis-py's options for each connection."""
    login: dict[str, Any] = {
        "username": address.username or None, "password": address.password or None
    }  # fmt: skip
    if address.credential_provider is not None:
        login = {"credential_provider": address.credential_provider}
    return {
        "db": address.database,
        **login,
        "decode_responses": True,
        # Bytes that are not UTF-8 are decoded without loss; `_BytesPacker` sends the same bytes.
        "encoding_errors": "surrogateescape",
        "command_packer": _BytesPacker() if HIREDIS_AVAILABLE else None,
        "socket_timeout": SOCKET_TIMEOUT_SECONDS,
        "socket_connect_timeout": SOCKET_TIMEOUT_SECONDS,
        "health_check_interval": HEALTH_CHECK_SECONDS,
        **address.options,
        **(address.tls or {}),
        "retry": _quick_retry(),
        # After a failover the address may lead to another server: connect again.
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
        raise StoreUnsuitable(f"these Sentinel options cannot be used: {error}") from None
    kind = MasterConnection if address.tls is None else MasterTlsConnection
    pool: redis.ConnectionPool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
        address.master_name, sentinels, connection_class=kind, **options
    )
    return pool


class MasterConnection(SentinelManagedConnection):
    """A connection that asks the Sentinels for the master whenever it connects.

    When redis-py 8 reconnects inside a command, it does not ask the Sentinels. It returns to the
    last known server again and again, even if that server is frozen or has become a replica. It
    also waits up to 15 s between tries, which blocks kombu's event loop. This class gives up after
    a second; Celery then connects again.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            **{"retry": _quick_retry(), **options}
        )

    def connect_check_health(
        self, check_health: bool = True, retry_socket_connect: bool = True
    ) -> None:
        """Connect to the current master; otherwise do what redis-py does."""
        if self._sock is None:
            self.host, self.port = self.connection_pool.get_master_address()
            # Watch before the handshake: the server may be frozen.
            watch_master(self)
        super().connect_check_health(check_health=check_health, retry_socket_connect=False)

    def _connect_retry(self) -> None:
        self.connect_check_health(check_health=self.connection_pool.check_connection)


class MasterTlsConnection(MasterConnection, redis.SSLConnection):
    """A `MasterConnection` with TLS."""


def _check_files(address: ServerAddress) -> None:
    """Raise StoreUnsuitable for unreadable certificate files: waiting would not help."""
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        path = (address.tls or {}).get(name)
        if path and not os.access(path, os.R_OK):
            raise StoreUnsuitable(
                f"{address.tls_named}: {name} is {path}, which cannot be read here; correct the "
                "path, or let this user read the file"
            )


class _BytesPacker(HiredisRespSerializer):
    """Encodes text with surrogate escapes as its original bytes, where hiredis would fail.

    Without hiredis, redis-py does that by itself.
    """

    def pack(self, *args: Any) -> Any:
        """Return the encoded command."""
        try:
            return super().pack(*args)
        except UnicodeEncodeError:
            return super().pack(*map(_as_bytes, args))


def _as_bytes(part: Any) -> Any:
    return part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
