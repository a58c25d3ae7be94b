"""What of a URL may be shown: never more than its scheme, and its host where that is no secret.

Tokens stand anywhere in a delivery URL (`slack://TOKEN/TOKEN`, `json://user:password@host`), so
everything behind the scheme is hidden. Nothing here knows any platform.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote, urlsplit

#: What a scheme consists of; the last four are letters to a pattern that ignores case.
_SCHEME_CHARACTERS = "".join(map(chr, (*range(97, 123), *range(65, 91), *range(48, 58)))) + (
    "+.-\u0130\u0131\u017f\u212a"
)
_SCHEME_START = re.compile(r"\b[a-z]", re.IGNORECASE)
_BEHIND = re.compile(r"[^\s,]+")
_SEPARATORS = re.compile(r"[/:@?&=,#]+")
#: Shorter pieces of a URL are ports and words, and hiding them would make errors unreadable.
_MIN_SECRET = 6


def masked(text: str) -> str:
    """The text with everything behind the scheme of each URL in it replaced by `***`."""
    pieces: list[str] = []
    position = 0
    for start, end in _behind_schemes(text):
        pieces += (text[position:start], "***")
        position = end
    return "".join((*pieces, text[position:]))


def masked_path(url: str) -> str:
    """An http(s) URL with its host: of a ping URL the path is the secret; `***` if it is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
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


def _behind_schemes(text: str) -> Iterator[tuple[int, int]]:
    """Where what is behind the scheme of each URL begins and ends.

    Looks for `://` first and then back for the scheme: from the front, each letter of a long word
    would be tried as the beginning of one.
    """
    seen = 0
    colon = text.find("://")
    while colon >= 0:
        word = seen + len(text[seen:colon].rstrip(_SCHEME_CHARACTERS))
        seen = colon + 3
        has_scheme = _SCHEME_START.search(text, word, colon) is not None
        behind = _BEHIND.match(text, seen) if has_scheme else None
        if behind is not None:
            yield behind.span()
            seen = behind.end()
        colon = text.find("://", seen)
