"""What is measured of every system, whatever it is made of: two spans from one instant."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import msgspec

#: The distance of two looks is at least this, and grows with the time that has passed, so that
#: looking costs a slow system little and a reading is never wrong by more than half a per cent.
_LOOK_SECONDS = 0.001
_LOOK_SHARE = 0.005


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """The first and the last of `wanted` things, in milliseconds since the instant of being due."""

    wanted: int
    reached: int
    #: None when there was none within the limit.
    first_ms: float | None
    #: None when the limit came first.
    last_ms: float | None


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """One round of one system."""

    #: Messages in the queue, nobody consuming.
    dispatched: Span
    #: Starts (first) and ends (last) of runs, with a worker of four slots.
    runs: Span
    #: What else is to be known of a round that hit the limit.
    note: str = ""

    @property
    def within_limit(self) -> bool:
        """Whether everything was done in time."""
        return self.dispatched.last_ms is not None and self.runs.last_ms is not None


class Contender(Protocol):
    """A system that can be handed N jobs that are due at one instant."""

    name: str
    #: How often it ticks when nothing is due, as it comes.
    idles: str

    def measure(self, count: int, *, limit_seconds: float) -> Times:
        """Have `count` no-op jobs due at once and follow them, each span up to the limit."""

    def idle_ticks(self, stored: int) -> list[float]:
        """Milliseconds of single ticks with `stored` jobs of which none is due."""


def watch(
    progress: Callable[[], int],
    *,
    wanted: int,
    since: float,
    limit_seconds: float,
    look_seconds: float = _LOOK_SECONDS,
) -> Span:
    """Look at a count until it has reached `wanted` or the limit is over.

    `since` is the instant that the span begins at, Unix seconds.
    """
    first_ms: float | None = None
    while True:
        reached, passed = progress(), time.time() - since
        if reached and first_ms is None:
            first_ms = passed * 1000
        if reached >= wanted or passed > limit_seconds:
            last_ms = passed * 1000 if reached >= wanted else None
            return Span(wanted=wanted, reached=reached, first_ms=first_ms, last_ms=last_ms)
        time.sleep(max(look_seconds, passed * _LOOK_SHARE))
