"""The only reader of the time.

Machines disagree about the time, so everything that is written to Redis carries the *server's*
time: `ServerClock` learns it once, then counts on with the monotonic clock, and learns it again
every few seconds. A host whose clock is off by minutes, or jumps, changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

#: Quartz drifts by less than 100 ppm, so that 10 s cost at most 1 ms.
_RESYNC_SECONDS = 10.0
_SAMPLES = 3


class Clock(Protocol):
    """What tells the time: `ServerClock` in processes, a clock set by hand in tests."""

    def now_ms(self) -> int:
        """Unix time in milliseconds."""

    def monotonic(self) -> float:
        """Seconds that never jump."""


class ServerClock:
    """The time of the Redis server, without asking it each time.

    `read_server_ms` asks the server (Unix ms); whatever it raises passes through `now_ms`.
    """

    def __init__(self, read_server_ms: Callable[[], int]) -> None:
        self._read_server_ms = read_server_ms
        self._offset_ms = 0.0
        self._synced_at = -1e9

    def now_ms(self) -> int:
        """Unix time in milliseconds, as the server has it."""
        if time.monotonic() - self._synced_at > _RESYNC_SECONDS:
            self.sync()
        return int(time.monotonic() * 1000 + self._offset_ms)

    def sync(self) -> None:
        """Ask the server; half of the round trip is taken as the way back.

        The fastest of a few answers counts (as in NTP's clock filter, RFC 5905 section 10): the
        first one may have waited for a connection.
        """
        best = float("inf")
        for _ in range(_SAMPLES):
            before = time.monotonic()
            server_ms = self._read_server_ms()
            after = time.monotonic()
            if after - before < best:
                best = after - before
                # The server's milliseconds are cut; half of one is what that loses on average.
                self._offset_ms = server_ms + 0.5 - (before + after) / 2 * 1000
        self._synced_at = time.monotonic()

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()
