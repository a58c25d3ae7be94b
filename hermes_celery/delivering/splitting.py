"""A long text in pieces that a platform takes: cut at line ends, else at spaces, else anywhere.

One pass over the text: each step looks at what fits into one piece and no further.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_NEWLINES = re.compile(r"\n*")


def utf16_length(text: str) -> int:
    """How Telegram counts: UTF-16 code units (Bot API, `sendMessage`)."""
    return len(text.encode("utf-16-le", errors="surrogatepass")) // 2


def pieces(text: str, *, limit: int, length: Callable[[str], int] = len) -> list[str]:
    """The text in pieces of at most `limit`, by `length`; never an empty piece.

    Nothing is lost but the blanks at a cut. `limit` must be at least 2, the longest character, and
    `length` at least the number of characters.
    """
    return list(_pieces(text.strip("\n"), limit, length))


def _pieces(text: str, limit: int, length: Callable[[str], int]) -> Iterator[str]:
    position = 0
    while position < len(text):
        # A character more than may fit shows whether the rest does.
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
    """Where the next piece begins: after one blank and any line ends."""
    position += text.startswith(" ", position)
    found = _NEWLINES.match(text, position)
    return found.end() if found else position


def _fitting(text: str, limit: int, length: Callable[[str], int]) -> int:
    """How many characters from the start fit."""
    count = min(limit, len(text))
    while (excess := length(text[:count]) - limit) > 0:
        # Each step drops as many characters as there are units too many, at most.
        count -= max(excess // 2, 1)
    return count


def _cut(text: str, most: int) -> int:
    """Where to cut: after the last line end or blank in the second half of what fits."""
    for mark in ("\n", " "):
        at = text.rfind(mark, most // 2, most + 1)
        if at > 0:
            return at
    return most
