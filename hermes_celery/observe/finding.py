"""One line of `doctor`: the check, its verdict, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `doctor`."""

    check: str
    verdict: Verdict
    text: str


def _finding(verdict: Verdict) -> Callable[[str, str], Finding]:
    return lambda check, text: Finding(check=check, verdict=verdict, text=text)


ok, warn, fail = (_finding(verdict) for verdict in Verdict)
