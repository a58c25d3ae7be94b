"""Split a long text into pieces that a platform accepts: at line ends, at spaces, or anywhere.

One pass over the text: each step reads only what fits into one piece.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_NEWLINES = re.compile(r"\n*")


def utf16_length(text: str) -> int:
    """Return the length as Telegram counts it: UTF-16 code units (Bot API, `sendMessage`)."""
    return len(text.encode("utf-16-le", errors="surrogatepass")) // 2


def pieces(text: str, *, limit: int, length: Callable[[str], int] = len) -> list[str]:
    """Split the text into pieces of at most `limit`, measured by `length`; no piece is empty.

    Only whitespace at a cut is lost. `limit` must be at least 2, the longest character, and
    `length` at least the number of characters.
    """
    return list(_pieces(text.strip("\n"), limit, length))


def _pieces(text: str, limit: int, length: Callable[[str], int]) -> Iterator[str]:
    position = 0
    while position < len(text):
        # One character more than may fit shows whether the rest fits.
        window = text[position : position + limit + 1]
        if length(window) <= limit:
            yield window
            return
        cut = _cut(window, _fitting(window, limit, length))
        head = window[:cut].rstrip()
        if head:
            yield head
        position = _after_cut(text, position + cut)


def _after_cut(text: str, position: int) -> int:
    """Return where the next piece begins: after one space and any line ends."""
    position += text.startswith(" ", position)
    found = _NEWLINES.match(text, position)
    return found.end() if found else position


def _fitting(text: str, limit: int, length: Callable[[str], int]) -> int:
    """Return how many characters from the start fit."""
    count = min(limit, len(text))
    while (excess := length(text[:count]) - limit) > 0:
        # A character has at most two units, so half the excess never drops too many.
        count -= max(excess // 2, 1)
    return count


def _cut(text: str, most: int) -> int:
    """Return where to cut: at the last line end or space in the second half of what fits."""
    for mark in ("\n", " "):
        at = text.rfind(mark, most // 2, most + 1)
        if at > 0:
            return at
    return most
