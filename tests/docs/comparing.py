"""Compare what was printed with what a page shows, as far as it is the same each time.

Times, durations, ids, process ids, host names and the width of columns differ from run to run. They
are replaced by a word on both sides first. A page may cut the id of a run: `3f0c9a1b2d4e-…`.
"""

from __future__ import annotations

import re
import socket

#: Each pattern becomes the word behind it, in this order.
_MASKS = [
    (r"\b[0-9a-f]{12}-(…|\d{8}T\d{6}(\.\d+)?Z(-[0-9a-f]{4,8})?(\.\d+)?)", "<run>"),
    (r"\b[\w]+-[0-9a-f]{12}-[0-9a-f]{8}\b", "<incident>"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<uuid>"),
    (r"\b[0-9a-f]{12}\b", "<id>"),
    (r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?([.,]\d+)?)?(Z|[+-]\d\d:?\d\d)?", "<time>"),
    (r"\b\d\d:\d\d(:\d\d)?([.,]\d+)?\b", "<time>"),
    (r"\b[\w.-]+:\d+:[0-9a-f]{8}\b", "<beat>"),
    (r"\b[\w.-]+@[\w.-]+:\d+\b", "<worker>"),
    (r"\b(process(es)?|pid) \d+", "process <pid>"),
    (r"\b\d+(\.\d+)? ?(ms|s|min|h|d|seconds?|minutes?|hours?|days?)\b", "<duration>"),
    (r"\b\d+(\.\d+)? ?([KMG]i?B|[KMG]|bytes)\b", "<size>"),
    (r"\((?:[A-Z]\w+/[\w/+-]+|UTC)\)", "(<zone>)"),
    (r"(unix://)?[^\s'\"=]*/valkey\.sock", "<server>"),
]
_ANY = "…"


def stable(line: str, *, masked: bool = True) -> str:
    """Return a line without what differs from run to run."""
    for pattern, word in _MASKS if masked else ():
        line = re.sub(pattern, word, line)
    host = re.escape(socket.gethostname())
    line = re.sub(rf"(?<=[@ ]){host}\b", "box", line)
    return " ".join(line.split())


def says(
    shown: tuple[str, ...], printed: str, *, masked: bool = True, goes_on: bool = False
) -> bool:
    """Return whether a text is what a page shows; `goes_on`: more may follow."""
    expected = [stable(line, masked=masked) for line in shown]
    actual = [stable(line, masked=masked) for line in printed.splitlines()]
    expected = [line for line in expected if line]
    actual = [line for line in actual if line]
    pattern = "".join(
        r"(?:[^\n]*\n)*?" if line == "..." else _line(line) + r"\n" for line in expected
    )
    if goes_on or expected == ["..."]:
        pattern += r"(?:[^\n]*\n)*"
    return re.fullmatch(pattern, "".join(line + "\n" for line in actual)) is not None


def _line(line: str) -> str:
    return "[^\n]*?".join(re.escape(part.strip()) for part in line.split(_ANY)).replace(
        "[^\n]*?", "[^\n]*"
    )
