"""Which server Celery really talks to, and that it is the one that holds the schedules.

Celery takes its broker from `-b`, `CELERY_BROKER_URL`, `CELERY_BROKER_READ_URL`,
`CELERY_BROKER_WRITE_URL` and the app's configuration, in an order of its own; what counts is the
connection that it makes of all that. A worker that reads from another server, database or user than
the one that runs are queued on looks alive and performs nothing, so it does not start.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from hermes_celery.errors import SettingsError
from hermes_celery.server_url import server_of, userinfo, without_password
from hermes_celery.settings import Settings, broker_variables

if TYPE_CHECKING:
    from celery import Celery

_SOCKET = "socket://"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Broker:
    """One of an app's two brokers."""

    #: Where its URL was found: a variable, or a name of Celery's configuration.
    named: str
    #: Our spelling of its URL.
    url: str

    @property
    def shown(self) -> str:
        return f"{self.named} means {without_password(self.url)}"


def refuse_another_broker(app: Celery, url: str) -> None:
    """Refuse to let our own app talk to another server than `url`.

    Raises SettingsError.
    """
    for broker in (_broker(app, "write"), _broker(app, "read")):
        if server_of(broker.url) != server_of(url):
            raise SettingsError(
                [
                    f"{broker.shown}, but the schedules of this cron are on "
                    f"{without_password(url)}, so that runs would be queued where no worker looks: "
                    f"unset {broker.named}, or set HERMES_REDIS_URL to the same server, database "
                    "and user"
                ]
            )


def following_broker(settings: Settings, app: Celery) -> Settings:
    """The settings of a project's app, whose store is its broker.

    Raises SettingsError unless that is one Redis, and the one of HERMES_REDIS_URL if that is set.
    """
    writes, reads = _broker(app, "write"), _broker(app, "read")
    if server_of(writes.url) != server_of(reads.url):
        raise SettingsError(
            [
                f"{writes.shown} and {reads.shown}: hermes-celery queues runs where it keeps its "
                "schedules, so that both must be one server, database and user; unset one of the "
                "two"
            ]
        )
    if settings.redis_url is not None and server_of(settings.redis_url) != server_of(writes.url):
        raise SettingsError(
            [
                f"the app's broker is another than HERMES_REDIS_URL: {writes.shown} and "
                f"HERMES_REDIS_URL {without_password(settings.redis_url)}, and both must be one "
                "server, database and user; unset HERMES_REDIS_URL to follow the broker"
            ]
        )
    return replace(settings, redis_url=writes.url)


def _broker(app: Celery, use: str) -> _Broker:
    """The broker that an app reads from or writes to. Raises SettingsError."""
    named = _named(app, use)
    connect = app.connection_for_read if use == "read" else app.connection_for_write
    try:
        connection = connect()
        url = _our_url(connection)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        # What kombu raises of a URL that it cannot read, which it does not quote.
        raise SettingsError(
            [f"{named} cannot be read by Celery ({error}); {_advice(named)}"]
        ) from None
    if not url:
        given = str(getattr(app.conf, f"broker_{use}_url") or "")
        shown = without_password(given.split(";")[0]) if given else "not set"
        raise SettingsError(
            [
                f"the app's broker, of {named}, is {shown}: hermes-celery keeps its schedules in "
                "the broker, so that a schedule and its message are one step, and needs one Redis "
                f"or Valkey; {_advice(named)}"
            ]
        )
    return _Broker(named=named, url=url)


def _named(app: Celery, use: str) -> str:
    """Where Celery finds the URL, in its order."""
    variables = broker_variables()
    own, common = f"CELERY_BROKER_{use.upper()}_URL", "CELERY_BROKER_URL"
    if own in variables:
        return own
    if app.conf.get(f"broker_{use}_url"):
        return f"broker_{use}_url"
    return common if common in variables else "broker_url"


def _advice(named: str) -> str:
    unset = f"unset {named}, or " if named in broker_variables() else ""
    return f"{unset}set {named} to redis://host:6379/0"


def _our_url(connection: Any) -> str:
    """A kombu connection as a redis://, rediss:// or unix:// URL; "" if it is no single Redis."""
    if connection.alt or connection.transport_cls not in ("redis", "rediss"):
        return ""
    host = connection.hostname or "localhost"
    database = str(connection.virtual_host or "").strip("/")
    if host.startswith(_SOCKET):
        return _socket_url(host, database)
    known = userinfo(connection.userid, connection.password)
    is_safe = bool(connection.ssl) or connection.transport_cls == "rediss"
    name = f"[{host}]" if ":" in host else host
    port = f":{connection.port}" if connection.port else ""
    options = f"?{urlencode(_tls(connection.ssl))}" if _tls(connection.ssl) else ""
    return f"{'rediss' if is_safe else 'redis'}://{known}{name}{port}/{database or 0}{options}"


def _socket_url(host: str, database: str) -> str:
    """kombu's `socket:///path?virtual_host=1` is `unix:///path?db=1` here."""
    parts = urlsplit(host)
    number = dict(parse_qsl(parts.query)).get("virtual_host", database)
    known = userinfo(parts.username, parts.password)
    return f"unix://{known}{parts.path}" + (f"?db={number}" if number else "")


def _tls(options: Any) -> dict[str, str]:
    """kombu's options of TLS as those of redis-py's URL."""
    if not isinstance(options, dict):
        return {}
    return {
        name: value.name.lower().removeprefix("cert_")
        if isinstance(value, ssl.VerifyMode)
        else str(value)
        for name, value in options.items()
        if value is not None
    }
