"""The address of the store: everything that a connection needs.

A URL says most of it. A Celery project says the rest in `broker_use_ssl` and
`broker_transport_options`, and some of that has no text form (a credential provider, a constant of
`ssl`). So an address is a value of its own. `parse_address` reads the URLs of HERMES_REDIS_URL:

    redis://USER:PASSWORD@HOST:6379/0
    rediss://HOST/0?ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem
    unix:///run/redis.sock?db=0
    sentinel://USER:PASSWORD@HOST:26379,HOST:26379,HOST:26379/0?master_name=NAME

The login before the hosts of `sentinel://` is for the server; `sentinel_username` and
`sentinel_password` are for the Sentinels. Celery's spelling is read too:
`sentinel://A:26379;sentinel://B:26379`. `ssl=true` uses TLS to the server behind Sentinels,
`sentinel_ssl=true` to the Sentinels; both use the certificates of the `ssl_` options.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from hermes_celery.masking.server_urls import (
    is_cut,
    login_advice,
    urls_of,
    userinfo,
    without_password,
)

REDIS_PORT = 6379
SENTINEL_PORT = 26379
_URL = "HERMES_REDIS_URL"
#: The Redis user of a login with a password and no name.
_DEFAULT_USER = "default"
#: How certificates are checked, in the words that Celery and redis-py accept.
_CERTIFICATE_REQUIREMENTS: Mapping[str, ssl.VerifyMode] = {
    **{mode.name.removeprefix("CERT_").lower(): mode for mode in ssl.VerifyMode},
    **{mode.name.lower(): mode for mode in ssl.VerifyMode},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """One user on one database of one server, and how to reach it."""

    #: The server, or with `master_name` its Sentinels; empty with `path`. A port is None if it was
    #: not given: see `servers`.
    hosts: Sequence[tuple[str, int | None]] = ()
    #: The socket of a server on this machine.
    path: str = ""
    #: The server's name at its Sentinels.
    master_name: str = ""
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    #: An object of redis-py that provides user and password, in place of both.
    credential_provider: Any = field(default=None, repr=False)
    #: The `ssl_...` options of redis-py; None without TLS.
    tls: Mapping[str, Any] | None = field(default=None, repr=False)
    #: Further options of a connection, under redis-py's names.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Options of the connections to the Sentinels.
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    min_other_sentinels: int = 0
    #: The settings that messages name: the one with the server, and the one with its TLS options.
    named: str = _URL
    tls_named: str = _URL

    def __post_init__(self) -> None:
        """Refuse a host that the resolver would refuse during a connection attempt."""
        try:
            for host, _ in self.hosts:
                host.encode("idna")
        except UnicodeError:
            raise ValueError(
                "its host is not a host name or address, such as example.org or [::1]"
            ) from None

    @property
    def user(self) -> str:
        """The name of the user that logs in."""
        return self.username or _DEFAULT_USER

    @property
    def servers(self) -> list[tuple[str, int]]:
        """The hosts, each with its port or the default port."""
        default = SENTINEL_PORT if self.master_name else REDIS_PORT
        return [(host, port or default) for host, port in self.hosts]

    def is_same_as(self, other: ServerAddress) -> bool:
        """Return whether both certainly mean the same user on the same database of the same server.

        `localhost` and `127.0.0.1` may be two servers, so they differ. Passwords are not compared.
        Two lists of Sentinels are the same if they share a Sentinel and the server's name.
        """
        if (self.database, self.user) != (other.database, other.user):
            return False
        if self.path or other.path:
            return os.path.realpath(self.path) == os.path.realpath(other.path)
        if self.master_name or other.master_name:
            is_known = not set(_known(self)).isdisjoint(_known(other))
            return self.master_name == other.master_name and is_known
        return _known(self) == _known(other)

    @property
    def url(self) -> str:
        """The address as a URL with its password, without what has no text form."""
        known = userinfo(self.username, self.password)
        if self.path:
            return f"unix://{known}{self.path}" + (f"?db={self.database}" if self.database else "")
        options = _as_text(self.tls or {})
        scheme = "redis" if self.tls is None else "rediss"
        if self.master_name:
            scheme = "sentinel"
            options = {"master_name": self.master_name, **options}
        hosts = ",".join(_host_text(host, port) for host, port in self.hosts)
        query = f"?{urlencode(options)}" if options else ""
        return f"{scheme}://{known}{hosts}/{self.database}{query}"

    @property
    def shown(self) -> str:
        """The address without its secrets, for messages."""
        return without_password(self.url)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerNames:
    """The names of kombu's keys and channels, from an app's transport options."""

    #: `global_keyprefix`: the prefix of every key and channel.
    prefix: str = ""
    #: `fanout_prefix`: the prefix of every broadcast channel.
    fanout: str = "/{db}."
    unacked: Sequence[str] = ("unacked", "unacked_index", "unacked_mutex")
    #: The Redis lists that the app's workers read, with the prefix.
    queues: frozenset[str] = frozenset()
    #: The exchanges of the queues, the remote control and the events, without the prefix.
    exchanges: frozenset[str] = frozenset()

    def types(self) -> dict[str, str]:
        """Return kombu's keys other than the queues, and the type that each must have.

        A key of another type keeps every worker from its queues. Empty if the app is not known.
        """
        if not self.exchanges:
            return {}
        kept = dict(zip(self.unacked, ("hash", "zset", "string"), strict=True))
        kept["_kombu.binding_deadlines"] = "zset"
        for exchange in self.exchanges:
            kept[f"_kombu.binding.{exchange}"] = "set"
            kept[f"_kombu.binding_permanent.{exchange}"] = "set"
        return {f"{self.prefix}{name}": kind for name, kind in kept.items()}


def _known(address: ServerAddress) -> list[tuple[str, int]]:
    return [(host.lower(), port) for host, port in address.servers]


def _host_text(host: str, port: int | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{port}" if port else name


def _as_text(tls: Mapping[str, Any]) -> dict[str, str]:
    """Return TLS options in the words of redis-py's URLs."""
    return {
        name: value.name.lower().removeprefix("cert_")
        if isinstance(value, ssl.VerifyMode)
        else str(value)
        for name, value in tls.items()
        if value is not None
    }


def parse_address(url: str, *, named: str = _URL) -> ServerAddress:
    """Read a URL; `named` is the setting that it comes from. Raises ValueError.

    The error quotes no password. If a password was read as a port, a path or a host, the error says
    what to write instead.
    """
    try:
        return _parsed(url, named=named)
    except ValueError:
        advice = login_advice(url)
        if not advice:
            raise
        raise ValueError(advice) from None


def _parsed(url: str, *, named: str) -> ServerAddress:
    first, *others = urls_of(url)
    if any(is_cut(one) for one in (first, *others)):
        raise ValueError("it ends in the middle of its password")
    parts = urlsplit(first)
    if parts.scheme == "sentinel":
        return _sentinel_address([first, *others], named=named)
    if others or "," in parts.netloc.rpartition("@")[2]:
        raise ValueError(
            "it names several servers, but schedules are on a single one: put Redis Sentinel in "
            "front of them and use sentinel://host:26379,host:26379/0?master_name=NAME"
        )
    query = _Query(parts.query)
    username, password = _login(parts.username, parts.password, query)
    address: dict[str, Any] = {
        "username": username,
        "password": password,
        "database": _database(unquote(parts.path) if parts.scheme != "unix" else "", query),
        "tls": _tls(query, is_on=parts.scheme == "rediss"),
        "options": query.take_options(),
        "named": named,
        "tls_named": named,
    }
    query.refuse_the_rest()
    if parts.scheme == "unix":
        return ServerAddress(**address, path=unquote(parts.path))
    return ServerAddress(**address, hosts=((_host(parts), _port(parts)),))


def _sentinel_address(urls: Sequence[str], *, named: str) -> ServerAddress:
    """Read Sentinels: one URL with several hosts, or several URLs, the last with the options."""
    last = urlsplit(urls[-1])
    hosts: list[tuple[str, int | None]] = []
    logins = set()
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme != "sentinel":
            raise ValueError(
                f"it names Sentinels and a {parts.scheme}:// server; name Sentinels only"
            )
        before, _, names = parts.netloc.rpartition("@")
        logins.add(before)
        hosts += [_host_and_port(name) for name in names.split(",") if name]
    if len(logins) > 1:
        raise ValueError("its Sentinels have different logins before the @; use the same for all")
    query = _Query(last.query)
    name = query.take("master_name")
    if not name:
        raise ValueError(
            "it lacks the name that the Sentinels give to the server; add ?master_name=NAME"
        )
    login = urlsplit(f"//{logins.pop()}@")
    username, password = _login(login.username, login.password, query)
    tls_of_server = query.take("ssl").lower() in _TRUE
    tls_of_sentinels = query.take("sentinel_ssl").lower() in _TRUE
    certificates = _tls(query, is_on=tls_of_server or tls_of_sentinels) or {}
    of_sentinels = {
        name.removeprefix("sentinel_"): query.take(name)
        for name in ("sentinel_username", "sentinel_password")
        if name in query
    }
    address = ServerAddress(
        hosts=tuple(hosts),
        master_name=name,
        database=_database(unquote(last.path), query),
        username=username,
        password=password,
        tls=certificates if tls_of_server else None,
        options=query.take_options(),
        sentinel_options={
            **of_sentinels,
            **({"ssl": True, **certificates} if tls_of_sentinels else {}),
        },
        named=named,
        tls_named=named,
    )
    query.refuse_the_rest()
    return address


def _host_and_port(text: str) -> tuple[str, int | None]:
    parts = urlsplit(f"//{text}")
    return _host(parts), _port(parts)


def _host(parts: SplitResult) -> str:
    return unquote(parts.hostname or "localhost")


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:
        # The message does not quote it: it may be a password if no @ follows.
        raise ValueError("its port is not a number from 0 to 65535") from None


def _login(username: str | None, password: str | None, query: _Query) -> tuple[str, str]:
    given = query.take("username"), query.take("password")
    return unquote(username or "") or given[0], unquote(password or "") or given[1]


def _database(path: str, query: _Query) -> int:
    text = query.take("db") or path.strip("/") or "0"
    if not text.isdecimal():
        raise ValueError(f"{text!r} is not a database number; end the URL with /0 or another")
    return int(text)


_TRUE = frozenset(("1", "true", "yes", "on"))
_FALSE = frozenset(("0", "false", "no", "off"))


def _switch(text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise ValueError(f"{text!r} must be true or false")
    return text.lower() in _TRUE


def certificate_requirement(text: str) -> ssl.VerifyMode:
    """Return the constant of `ssl` for `CERT_NONE`, `none` and so on. Raises ValueError."""
    try:
        return _CERTIFICATE_REQUIREMENTS[text.lower()]
    except KeyError:
        raise ValueError(f"{text!r}; use required, optional or none") from None


def _tls_version(text: str) -> ssl.TLSVersion:
    name = text.replace(".", "_")
    try:
        return ssl.TLSVersion[name]
    except KeyError:
        raise ValueError(f"{text!r} is not a TLS version such as TLSv1.2") from None


_TLS: Mapping[str, Callable[[str], object]] = {
    "ssl_cert_reqs": certificate_requirement,
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_ca_data": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_password": str,
    "ssl_ciphers": str,
    "ssl_check_hostname": _switch,
    "ssl_min_version": _tls_version,
}
#: Connection options that a URL may set, and how their values are read.
_OPTIONS: Mapping[str, Callable[[str], object]] = {
    "socket_timeout": float,
    "socket_connect_timeout": float,
    "socket_keepalive": _switch,
    "health_check_interval": int,
    "client_name": str,
}
#: Options of redis-py that this package sets itself.
_IGNORED = ("retry_on_timeout", "max_connections", "protocol", "decode_responses", "encoding")


def _tls(query: _Query, *, is_on: bool) -> dict[str, Any] | None:
    """Take the TLS options; certificates are checked unless an option turns that off."""
    given = {name: query.taken(name, convert) for name, convert in _TLS.items() if name in query}
    if is_on:
        return {"ssl_cert_reqs": ssl.CERT_REQUIRED, **given}
    if given:
        raise ValueError(f"{', '.join(given)} needs TLS; use rediss:// (or ssl=true)")
    return None


class _Query:
    """The options after the question mark, each of which is taken once."""

    def __init__(self, text: str) -> None:
        self._rest = dict(parse_qsl(text))

    def __contains__(self, name: str) -> bool:
        return name in self._rest

    def take(self, name: str) -> str:
        """Take one option; "" if it is not given."""
        return self._rest.pop(name, "")

    def taken(self, name: str, convert: Callable[[str], object]) -> object:
        """Take one option that is given, and convert it."""
        try:
            return convert(self.take(name))
        except ValueError as error:
            raise ValueError(f"{name} is wrong: {error}") from None

    def take_options(self) -> dict[str, Any]:
        """Take the connection options."""
        for name in _IGNORED:
            self.take(name)
        return {
            name: self.taken(name, convert) for name, convert in _OPTIONS.items() if name in self
        }

    def refuse_the_rest(self) -> None:
        """Raise ValueError if an unknown option is left, and name it."""
        if self._rest:
            known = ("db", "username", "password", *_OPTIONS, *_TLS, "master_name",
                     "sentinel_username", "sentinel_password")  # fmt: skip
            raise ValueError(
                f"its option {next(iter(self._rest))!r} is unknown; use one of {', '.join(known)}"
            )
