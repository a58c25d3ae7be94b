"""Texts from anywhere as they may be shown."""

from __future__ import annotations


def readable(text: str) -> str:
    """A text as it may be shown: bytes that were no UTF-8 become replacement characters."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
