"""Hide secrets in URLs: show at most the scheme, and the host where it is not a secret.

Tokens may be anywhere in a delivery URL (`slack://TOKEN/TOKEN`, `json://user:password@host`), so
everything after the scheme is hidden. A `file://` URL is shown, because it is only a file's name.
This module knows no platform.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote, urlsplit

#: The characters of a scheme; a pattern that ignores case also matches the last four.
_SCHEME_CHARACTERS = "".join(map(chr, (*range(97, 123), *range(65, 91), *range(48, 58)))) + (
    "+.-\u0130\u0131\u017f\u212a"
)
_SCHEME_START = re.compile(r"\b[a-z]", re.IGNORECASE)
_BEHIND = re.compile(r"[^\s,]+")
_SEPARATORS = re.compile(r"[/:@?&=,#]+")
#: Shortest secret piece of a URL; shorter ones are ports and words, which errors should show.
_MIN_SECRET = 6


def masked(text: str) -> str:
    """Return a text in which everything after the scheme of each URL is replaced by `***`.

    A `file://` URL stays as it is.
    """
    pieces: list[str] = []
    position = 0
    for start, end in _behind_schemes(text):
        pieces += (text[position:start], "***")
        position = end
    return "".join((*pieces, text[position:]))


def masked_path(url: str) -> str:
    """Return an http(s) URL with its host only, because a ping URL's path is secret.

    An invalid URL becomes `***`.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    return f"{parts.scheme}://{parts.hostname or ''}/***"


def secrets_of(urls: Iterable[str]) -> frozenset[str]:
    """Return the pieces of URLs that must never be shown, as written and decoded."""
    pieces = {piece for url in urls for piece in _SEPARATORS.split(url.partition("://")[2])}
    return frozenset(
        form for piece in pieces for form in (piece, unquote(piece)) if len(form) >= _MIN_SECRET
    )


def without(text: str, secrets: Iterable[str]) -> str:
    """Return a text with each of the secrets and each URL hidden."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return masked(text)


def _behind_schemes(text: str) -> Iterator[tuple[int, int]]:
    """Yield the span after the scheme of each URL except `file://`.

    Searches for `://` and then backwards for the scheme. A forward search would try each letter of
    a long word as the beginning of a scheme.
    """
    seen = 0
    colon = text.find("://")
    while colon >= 0:
        word = seen + len(text[seen:colon].rstrip(_SCHEME_CHARACTERS))
        seen = colon + 3
        has_scheme = (
            text[word:colon].lower() != "file"
            and _SCHEME_START.search(text, word, colon) is not None
        )
        behind = _BEHIND.match(text, seen) if has_scheme else None
        if behind is not None:
            yield behind.span()
            seen = behind.end()
        colon = text.find("://", seen)
