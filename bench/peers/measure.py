"""The figures measured for every system: two spans from the instant at which jobs are due."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import msgspec

#: Shortest interval between two polls. It grows with the elapsed time, so that polling costs a slow
#: system little and a reading is wrong by at most 0.5 %.
_POLL_SECONDS = 0.001
_POLL_SHARE = 0.005


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """The first and last of `wanted` messages or runs, in ms since they were due."""

    wanted: int
    reached: int
    #: None if there was none within the limit.
    first_ms: float | None
    #: None if the limit was reached first.
    last_ms: float | None


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one round of one system."""

    #: Messages in the queue, without a consumer.
    dispatched: Span
    #: Starts (first) and ends (last) of runs, with a worker of four slots.
    runs: Span
    #: A remark on a round that reached the limit.
    note: str = ""

    @property
    def within_limit(self) -> bool:
        """True if both spans finished within the limit."""
        return self.dispatched.last_ms is not None and self.runs.last_ms is not None


class Contender(Protocol):
    """A system that can be given N jobs due at one instant."""

    name: str
    #: Default interval between ticks with nothing due.
    idles: str

    def measure(self, count: int, *, limit_seconds: float) -> Times:
        """Make `count` no-op jobs due at once and measure both spans, each up to the limit."""

    def idle_ticks(self, stored: int) -> list[float]:
        """Return the milliseconds of single ticks with `stored` jobs, none of them due."""


def watch(
    progress: Callable[[], int],
    *,
    wanted: int,
    since: float,
    limit_seconds: float,
    poll_seconds: float = _POLL_SECONDS,
) -> Span:
    """Poll a count until it reaches `wanted` or the limit has passed; return the span.

    `since` is the beginning of the span, Unix seconds.
    """
    first_ms: float | None = None
    while True:
        reached, passed = progress(), time.time() - since
        if reached and first_ms is None:
            first_ms = passed * 1000
        if reached >= wanted or passed > limit_seconds:
            last_ms = passed * 1000 if reached >= wanted else None
            return Span(wanted=wanted, reached=reached, first_ms=first_ms, last_ms=last_ms)
        time.sleep(max(poll_seconds, passed * _POLL_SHARE))
