"""Texts from outside, with lone surrogates for bytes that are not UTF-8."""

from __future__ import annotations


def readable(text: str) -> str:
    """Return a text in which bytes that were not UTF-8 became replacement characters."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()


def can_be_sent(text: str) -> bool:
    """Return whether a text can be sent to the server: half a character cannot."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
