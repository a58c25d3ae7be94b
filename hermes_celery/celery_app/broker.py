"""Finds the server that Celery really connects to; refuses one that lacks the schedules.

Celery takes its broker from `-b`, `CELERY_BROKER_URL`, `CELERY_BROKER_READ_URL`,
`CELERY_BROKER_WRITE_URL` and the app's configuration, in an order of its own. Only the connection
that it makes of them counts. A worker that reads from another server, database or user than the one
on which runs are queued looks alive and performs nothing; such a worker does not start.

A project's store is its broker, reached as Celery reaches it: with the TLS of `broker_use_ssl` or
of the URL, and with the timeouts, names and Sentinels of `broker_transport_options`. kombu 5.7 says
what Celery's Redis transport makes of them: `kombu.transport.redis`, `_connparams` and
`_sentinel_managed_pool`.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from hermes_celery.core.server_address import BrokerNames, ServerAddress, parse_address
from hermes_celery.errors import SettingsError
from hermes_celery.events import event
from hermes_celery.masking.server_urls import login_advice, urls_of, without_password
from hermes_celery.settings import Settings, broker_variables

if TYPE_CHECKING:
    from celery import Celery

_log = logging.getLogger(__name__)
_SOCKET = "socket://"
_TRANSPORTS = ("redis", "rediss", "sentinel")
_REDIS_URL = re.compile(r"(rediss?|sentinel|redis\+socket)://")
_PORT = re.compile(r"Port (could not be cast|out of range)")
_UNKNOWN_OPTION = re.compile(r"unexpected keyword argument ('\w+')")
#: kombu's defaults, unless the app's transport options change them.
_PRIORITY_STEPS = (0, 3, 6, 9)
_MAX_PRIORITY = 9
_PRIORITY_SEPARATOR = "\x06\x16"
#: Transport options that kombu passes to each connection; our own timeouts are the defaults.
_OPTIONS = (
    "socket_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_keepalive_options",
    "health_check_interval",
    "client_name",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Broker:
    """One of an app's two brokers, for reading or for writing."""

    #: The variable or Celery setting that the URL comes from.
    named: str
    address: ServerAddress

    @property
    def shown(self) -> str:
        return f"{self.named} means {self.address.shown}"


def refuse_another_broker(app: Celery, address: ServerAddress) -> None:
    """Refuse a broker of our own app on another server than `address`. Raises SettingsError."""
    for broker in (_broker(app, "write"), _broker(app, "read")):
        if not broker.address.is_same_as(address):
            raise SettingsError(
                [
                    f"{broker.shown}, but the schedules of this cron are on "
                    f"{address.shown}, so that runs would be queued where no worker reads: "
                    f"unset {broker.named}, or set HERMES_REDIS_URL to the same server, database "
                    "and user"
                ]
            )


def following_broker(settings: Settings, app: Celery) -> Settings:
    """Return the settings of a project's app, with its broker as the store.

    Raises SettingsError unless the broker is one Redis, and the one of HERMES_REDIS_URL if that is
    set.
    """
    writes, reads = _broker(app, "write"), _broker(app, "read")
    if not writes.address.is_same_as(reads.address):
        raise SettingsError(
            [
                f"{writes.shown} and {reads.shown}: hermes-celery queues runs where it keeps its "
                "schedules, so both must be one server, database and user; unset one of the two"
            ]
        )
    given = settings.redis_url
    if given is not None and not parse_address(given).is_same_as(writes.address):
        raise SettingsError(
            [
                f"the app's broker differs from HERMES_REDIS_URL: {writes.shown}, "
                f"HERMES_REDIS_URL means {without_password(given)}, and both must be one "
                "server, database and user; unset HERMES_REDIS_URL to use the broker"
            ]
        )
    return replace(
        settings, redis_url=writes.address.url, address=writes.address, broker_names=names_of(app)
    )


def key_prefix(app: Celery) -> str:
    """Return the prefix of the keys that kombu uses for an app; usually ""."""
    return str(app.conf.broker_transport_options.get("global_keyprefix") or "")


def list_of(app: Celery, queue: str, *, priority: int | None) -> str:
    """Return the Redis list of a queue and priority.

    kombu keeps one list for the queue, and one more for each step of lower priority.
    """
    options = app.conf.broker_transport_options
    steps = tuple(options.get("priority_steps") or _PRIORITY_STEPS)
    # kombu takes a priority beyond its limits as the limit.
    step = steps[bisect(steps, min(max(priority or 0, 0), _MAX_PRIORITY)) - 1]
    suffix = f"{options.get('sep') or _PRIORITY_SEPARATOR}{step}" if step else ""
    return f"{key_prefix(app)}{queue}{suffix}"


def names_of(app: Celery) -> BrokerNames:
    """Return kombu's names of an app's keys and channels, with the queues that kombu knows now."""
    options, known = app.conf.broker_transport_options, BrokerNames()
    prefix, fanout = key_prefix(app), options.get("fanout_prefix", True)
    if not isinstance(fanout, str):
        fanout = known.fanout if fanout else ""
    return BrokerNames(
        prefix=prefix,
        fanout=fanout,
        unacked=[str(options.get(f"{name}_key") or name) for name in known.unacked],
        queues=frozenset(f"{prefix}{name}" for name in app.amqp.queues),
        exchanges=_exchanges(app),
    )


def _exchanges(app: Celery) -> frozenset[str]:
    """Return the exchanges that an app's workers bind queues to.

    kombu keeps a set of bindings for each.
    """
    control = app.conf.control_exchange
    named = {queue.exchange.name for queue in app.amqp.queues.values() if queue.exchange}
    broadcast = (f"{control}.pidbox", f"reply.{control}.pidbox", app.conf.event_exchange)
    return frozenset(str(name) for name in (*named, *broadcast) if name)


def _broker(app: Celery, use: str) -> _Broker:
    """Return the broker that an app reads from or writes to. Raises SettingsError."""
    named = _named(app, use)
    connect = app.connection_for_read if use == "read" else app.connection_for_write
    given = _as_text(getattr(app.conf, f"broker_{use}_url"))
    if given and not _REDIS_URL.match(given):
        # Checked before kombu tries to import the libraries of such a broker.
        raise SettingsError([_no_redis(named, given)])
    try:
        connection = connect()
        if connection.transport_cls not in _TRANSPORTS:
            raise SettingsError([_no_redis(named, given)])
        address = _address_of(app, connection, named)
        others = [] if address.master_name else list(connection.alt or ())
        for url in others:
            _refuse_several_servers(address, _address_of(app, connect(url), named), named)
    except SettingsError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, ImportError) as error:
        # kombu raises these for a URL that it cannot parse, without quoting the URL.
        raise SettingsError(
            [f"{named} cannot be read by Celery ({_plain(error, given)}); {_advice(named)}"]
        ) from None
    return _Broker(named=named, address=address)


def _as_text(urls: str | list[str] | None) -> str:
    return urls or "" if isinstance(urls, str) or urls is None else ";".join(urls)


def _plain(error: Exception, given: str) -> str:
    """Return kombu's error text, unless it would quote a part of the password.

    kombu may quote a piece of the password that it took for a port or a database. It reports an
    unknown option of the URL as an unexpected argument.
    """
    advice = login_advice(given)
    if advice or _PORT.match(str(error)):
        return advice or "its port is not a number from 0 to 65535"
    unknown = _UNKNOWN_OPTION.search(str(error))
    return f"its option {unknown[1]} is unknown" if unknown else str(error)


def _no_redis(named: str, given: str) -> str:
    shown = without_password(urls_of(given)[0]) if given else "not set"
    return (
        f"the app's broker, of {named}, is {shown}: hermes-celery keeps its schedules in "
        "the broker, to move a schedule on and queue its message in one step, and needs one "
        f"Redis or Valkey; {_advice(named)}"
    )


def _refuse_several_servers(first: ServerAddress, other: ServerAddress, named: str) -> None:
    if not other.is_same_as(first):
        raise SettingsError(
            [
                f"{named} lists {first.shown} and {other.shown}, and needs one Redis or Valkey: "
                "the schedules stay behind when Celery switches to the next server of the list; "
                f"{_unset(named)}set {named} to one server, or to Redis Sentinels in front of "
                "them: sentinel://host:26379;sentinel://host:26379/0 with "
                'broker_transport_options = {"master_name": NAME}'
            ]
        )


def _named(app: Celery, use: str) -> str:
    """Return where Celery finds the URL, searched in Celery's order."""
    variables = broker_variables()
    own, common = f"CELERY_BROKER_{use.upper()}_URL", "CELERY_BROKER_URL"
    if own in variables:
        return own
    if app.conf.get(f"broker_{use}_url"):
        return f"broker_{use}_url"
    return common if common in variables else "broker_url"


def _advice(named: str) -> str:
    return f"{_unset(named)}set {named} to redis://host:6379/0"


def _unset(named: str) -> str:
    return f"unset {named}, or " if named in broker_variables() else ""


def _address_of(app: Celery, connection: Any, named: str) -> ServerAddress:
    """Return the address of a kombu connection. Raises SettingsError or ValueError."""
    options = connection.transport_options or {}
    is_setting = bool(connection.ssl) and connection.ssl == app.conf.broker_use_ssl
    tls_named = "broker_use_ssl" if is_setting else named
    common: dict[str, Any] = {
        "tls": _tls(connection, tls_named),
        "options": {name: options[name] for name in _OPTIONS if options.get(name) is not None},
        "named": named,
        "tls_named": tls_named,
    }
    host = connection.hostname or "localhost"
    if host.startswith(_SOCKET):
        return _socket_address(host, connection, common)
    common |= _login(connection.userid, connection.password, connection.credential_provider)
    common["database"] = _database(connection.virtual_host)
    if connection.transport_cls == "sentinel":
        return _sentinel_address(connection, options, common)
    return ServerAddress(hosts=((host, connection.port and int(connection.port)),), **common)


def _socket_address(host: str, connection: Any, common: Mapping[str, Any]) -> ServerAddress:
    """Return the address of kombu's `socket:///path?virtual_host=1`."""
    parts = urlsplit(host)
    query = dict(parse_qsl(parts.query))
    provider = query.get("credential_provider") or connection.credential_provider
    return ServerAddress(
        path=parts.path,
        database=_database(query.get("virtual_host", connection.virtual_host)),
        **_login(unquote(parts.username or ""), unquote(parts.password or ""), provider),
        **common,
    )


def _sentinel_address(
    connection: Any, options: Mapping[str, Any], common: Mapping[str, Any]
) -> ServerAddress:
    """Return the address of a server behind Sentinels.

    After each lost connection kombu switches to the next Sentinel of the list and takes over its
    database, user and password, so all must have the same. Raises SettingsError.
    """
    urls = list(connection.alt or ())
    parts = [urlsplit(url) for url in urls]
    logins = {(one.username, one.password) for one in parts}
    databases = {_database(unquote(one.path)) for one in parts}
    if any(one.scheme != "sentinel" for one in parts) or len(logins) > 1 or len(databases) > 1:
        raise SettingsError(
            [
                f"{common['named']} is {without_password(';'.join(urls))}: Celery may use any URL "
                "of the list, so all of them must be sentinel:// with the same login before the @ "
                "and the same database at the end"
            ]
        )
    name = options.get("master_name")
    if not name:
        raise SettingsError(
            [
                f"{common['named']} names Sentinels, but broker_transport_options does not name "
                f"the master that they watch; {_unset(str(common['named']))}set "
                'broker_transport_options = {"master_name": NAME}'
            ]
        )
    hosts = [(unquote(one.hostname or "localhost"), one.port) for one in parts]
    if not hosts:
        hosts = [(connection.hostname or "localhost", connection.port)]
    given = options.get("sentinel_kwargs")
    if given is None:
        # redis-py's default: the socket options of the server.
        given = {name: value for name, value in common["options"].items() if "socket_" in name}
    return ServerAddress(
        hosts=tuple(hosts),
        master_name=str(name),
        sentinel_options=given,
        min_other_sentinels=int(options.get("min_other_sentinels") or 0),
        **common,
    )


def _login(username: str | None, password: Any, provider: Any) -> dict[str, Any]:
    if not provider:
        return {"username": username or "", "password": password or ""}
    if isinstance(provider, str):
        from celery.utils.imports import symbol_by_name  # here to start fast

        provider = symbol_by_name(provider)()
    return {"credential_provider": provider}


def _database(virtual_host: object) -> int:
    text = str(virtual_host or "").removeprefix("/")
    try:
        return int(text or 0)
    except ValueError:
        raise ValueError(f"its database is {text!r}, which is not a number") from None


def _tls(connection: Any, named: str) -> Mapping[str, Any] | None:
    """Return the TLS options that kombu uses: the entries of a dict; None for anything else."""
    given = connection.ssl
    if isinstance(given, Mapping):
        return _checked_tls(given, named) if given else None
    if given and connection.transport_cls == "rediss":
        raise SettingsError([f"broker_use_ssl is {given!r}, {_TLS_ADVICE}"])
    if given:
        _warn_once(f"broker_use_ssl is {given!r}, so nothing is encrypted: {_TLS_ADVICE}")
    return None


_TLS_ADVICE = (
    "but Celery uses TLS with Redis only if it is a dict: "
    'set broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": FILE}'
)


def _checked_tls(given: Mapping[str, Any], named: str) -> Mapping[str, Any]:
    unknown = [name for name in given if not str(name).startswith("ssl_")]
    if unknown:
        raise SettingsError(
            [
                f"{named} has {unknown[0]!r}, an option of another broker; those for Redis begin "
                "with ssl_: ssl_cert_reqs, ssl_ca_certs, ssl_certfile, ssl_keyfile"
            ]
        )
    reqs = given.get("ssl_cert_reqs")
    if isinstance(reqs, str) and reqs not in ("none", "optional", "required"):
        raise SettingsError(
            [
                f"{named}: ssl_cert_reqs is {reqs!r}, which Celery does not know; use "
                "ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL or ssl.CERT_NONE (import ssl)"
            ]
        )
    return given


@cache
def _warn_once(text: str) -> None:
    event(_log, "broker.unsafe", level=logging.WARNING, why=text)
