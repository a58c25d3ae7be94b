"""How messages write a number of things: `1 job`, `2 jobs`."""

from __future__ import annotations


def counted(number: int, one: str, several: str = "") -> str:
    """Return `1 job`, `2 jobs` or `1,234 jobs`; `several` is by default `one` with an s.

    `one` and `several` may be longer: `counted(n, "message waits", "messages wait")`.
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"
