"""URLs as text: logins in them, lists of them, and what of them may be shown."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit, urlunsplit


def userinfo(user: str | None, password: str | None) -> str:
    """`user:password@` as it stands in a URL; "" without."""
    if not user and not password:
        return ""
    secret = f":{quote(password, safe='')}" if password else ""
    return f"{quote(user or '', safe='')}{secret}@"


def urls_of(text: str) -> list[str]:
    """The URLs of a list that is separated by `;`."""
    return [url for url in _BETWEEN.split(text) if url] or [""]


def without_password(text: str) -> str:
    """A URL, or a list of them, as it may be shown, each password in it replaced by `***`."""
    return ";".join(_shown(url) for url in urls_of(text))


def _shown(url: str) -> str:
    url = _PASSWORD.sub(r"\1***", url)
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user_host = f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}"
    return urlunsplit(parts._replace(netloc=user_host))


#: A password may hold a `;` of its own.
_BETWEEN = re.compile(r";(?=[\w+]+://|$)")
#: In a query: `password=`, `sentinel_password=`, `ssl_password=`.
_PASSWORD = re.compile(r"([?&]\w*password=)[^&;]*")
