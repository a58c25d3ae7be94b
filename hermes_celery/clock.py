"""Read the time, in this module only.

The clocks of machines differ, so everything that is written to Redis has the time of the *server*.
`ServerClock` reads it once, then counts on with the monotonic clock, and reads it again every few
seconds. A host whose clock is wrong or jumps changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

#: A quartz clock drifts by less than 100 ppm: at most 1 ms in 10 s.
_RESYNC_SECONDS = 10.0
_SAMPLES = 3


class Clock(Protocol):
    """Reads the time: `ServerClock` in processes, a clock set by hand in tests."""

    def now_ms(self) -> int:
        """Return Unix time in milliseconds."""

    def monotonic(self) -> float:
        """Return seconds that never jump."""


class ServerClock:
    """Follows the clock of the Redis server without a request for each reading.

    `read_server_ms` asks the server (Unix ms); `now_ms` raises what it raises.
    """

    def __init__(self, read_server_ms: Callable[[], int]) -> None:
        self._read_server_ms = read_server_ms
        self._offset_ms = 0.0
        self._synced_at = -1e9

    def now_ms(self) -> int:
        """Return the server's Unix time in milliseconds."""
        if time.monotonic() - self._synced_at > _RESYNC_SECONDS:
            self.sync()
        return int(time.monotonic() * 1000 + self._offset_ms)

    def sync(self) -> None:
        """Ask the server, and assume that the answer took half of the round trip.

        Use the fastest of a few answers (as NTP's clock filter does, RFC 5905 section 10): the
        first one may have waited for a connection.
        """
        best = float("inf")
        for _ in range(_SAMPLES):
            before = time.monotonic()
            server_ms = self._read_server_ms()
            after = time.monotonic()
            if after - before < best:
                best = after - before
                # The server truncates to milliseconds, and loses half of one on average.
                self._offset_ms = server_ms + 0.5 - (before + after) / 2 * 1000
        self._synced_at = time.monotonic()

    def monotonic(self) -> float:
        """Return seconds that never jump."""
        return time.monotonic()
