"""Which server, database and user a Redis URL means, as redis-py reads it.

Two URLs mean the same only where that is certain: `localhost` and `127.0.0.1` may be two servers
(the first can be `::1`), so they differ here. Passwords do not count, users do.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

_DEFAULT_PORT = 6379
#: The user that Redis logs in who gives a password and no name.
_DEFAULT_USER = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One user on one database of one server."""

    #: A host's name in lower case, or the path of a socket.
    host: str
    #: 0 for a socket.
    port: int
    database: str
    user: str


def server_of(url: str) -> Server:
    """What a redis://, rediss:// or unix:// URL means."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    path = unquote(parts.path)
    is_socket = parts.scheme == "unix"
    database = query.get("db") or ("" if is_socket else path.strip("/"))
    return Server(
        host=os.path.realpath(path) if is_socket else unquote(parts.hostname or "localhost"),
        port=0 if is_socket else parts.port or _DEFAULT_PORT,
        database=str(int(database)) if database.isdecimal() else database or "0",
        user=unquote(parts.username or query.get("username", "")) or _DEFAULT_USER,
    )


def userinfo_of(url: str) -> str:
    """What stands before the host, `user:password@`, wherever the URL has it; "" without."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    user = unquote(parts.username or "") or query.get("username", "")
    password = unquote(parts.password or "") or query.get("password", "")
    return userinfo(user, password)


def userinfo(user: str | None, password: str | None) -> str:
    """`user:password@` as it stands in a URL; "" without."""
    if not user and not password:
        return ""
    secret = f":{quote(password, safe='')}" if password else ""
    return f"{quote(user or '', safe='')}{secret}@"


def without_password(url: str) -> str:
    """The URL as it may be shown: its password replaced by `***`."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user_host = f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}"
    return urlunsplit(parts._replace(netloc=user_host))
