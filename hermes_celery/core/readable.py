"""Make texts from outside printable: escape control characters."""

from __future__ import annotations


def readable(text: str) -> str:
    """Return a text in which bytes that were not UTF-8 became replacement characters."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
