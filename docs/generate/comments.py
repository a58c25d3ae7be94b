"""Reads the `#:` comments of a class's members, which Python itself drops."""

from __future__ import annotations

import inspect
import re

_MEMBER = re.compile(r"    (\w+)(?::.*)? = |    (\w+): ")


def comments_of(owner: type) -> dict[str, str]:
    """Return the comment above each member of a class on one line, "" if it has none."""
    found: dict[str, str] = {}
    lines: list[str] = []
    for line in inspect.getsource(owner).splitlines():
        if line.startswith("    #: "):
            lines.append(line.strip().removeprefix("#: "))
            continue
        if member := _MEMBER.match(line):
            found[member[1] or member[2]] = " ".join(lines)
        lines = []
    return found
