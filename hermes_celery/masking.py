"""What of a URL may be shown: never more than its scheme, and its host where that is no secret.

Tokens stand anywhere in a delivery URL (`slack://TOKEN/TOKEN`, `json://user:password@host`), so
everything behind the scheme is hidden. Nothing here knows any platform.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

_URL = re.compile(r"\b([a-z][a-z0-9+.-]*)://[^\s,]+", re.IGNORECASE)
_SEPARATORS = re.compile(r"[/:@?&=,#]+")
#: Shorter pieces of a URL are ports and words, and hiding them would make errors unreadable.
_MIN_SECRET = 6


def masked(text: str) -> str:
    """The text with everything behind the scheme of each URL in it replaced by `***`."""
    return _URL.sub(r"\1://***", text)


def masked_path(url: str) -> str:
    """An http(s) URL with its host: of a ping URL the path is the secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}/***"


def secrets_of(urls: Iterable[str]) -> frozenset[str]:
    """The pieces of URLs that must not show anywhere, encoded and decoded."""
    pieces = {piece for url in urls for piece in _SEPARATORS.split(url.partition("://")[2])}
    return frozenset(
        form for piece in pieces for form in (piece, unquote(piece)) if len(form) >= _MIN_SECRET
    )


def without(text: str, secrets: Iterable[str]) -> str:
    """The text with every secret in it, and every URL, hidden."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return masked(text)
