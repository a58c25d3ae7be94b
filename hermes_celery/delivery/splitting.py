"""A long text in pieces that a platform takes: cut at line ends, else at spaces, else anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator


def utf16_length(text: str) -> int:
    """How Telegram counts: UTF-16 code units (Bot API, `sendMessage`)."""
    return len(text) + sum(ord(character) > 0xFFFF for character in text)


def pieces(text: str, *, limit: int, length: Callable[[str], int] = len) -> list[str]:
    """The text in pieces of at most `limit`, by `length`; never an empty piece.

    Nothing is lost but the blanks at a cut. `limit` must be at least 2, the longest character.
    """
    return list(_pieces(text.strip("\n"), limit, length))


def _pieces(text: str, limit: int, length: Callable[[str], int]) -> Iterator[str]:
    while text:
        if length(text) <= limit:
            yield text
            return
        cut = _cut(text, _fitting(text, limit, length))
        head, text = text[:cut].rstrip(), text[cut:].removeprefix(" ").lstrip("\n")
        if head:
            yield head


def _fitting(text: str, limit: int, length: Callable[[str], int]) -> int:
    """How many characters from the start fit."""
    count = min(limit, len(text))
    while length(text[:count]) > limit:
        # Each step drops as many characters as there are units too many, at most.
        count -= max((length(text[:count]) - limit) // 2, 1)
    return count


def _cut(text: str, most: int) -> int:
    """Where to cut: after the last line end or blank in the second half of what fits."""
    for mark in ("\n", " "):
        at = text.rfind(mark, most // 2, most + 1)
        if at > 0:
            return at
    return most
