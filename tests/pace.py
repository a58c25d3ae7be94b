"""Limits of time that are as strict on a busy machine as on a quiet one.

`own_seconds` is a clock that stands while other processes have the processor. `Pace` compares the
machine of now with a quiet one, by bare loops in turns with what is measured. `quiet_seconds`
measures work of this thread so, and `quiet_seconds_until` that of other processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean

from tests.support import eventually

#: Linux: nanoseconds of this thread on a processor and waiting for one, and its time slices.
_SCHEDULE = Path("/proc/thread-self/schedstat")
#: Seconds of one `bare_loop` on a quiet machine.
QUIET_SECONDS = 0.0044


def own_seconds() -> float:
    """Return the seconds that this thread has run, slept and waited for something, by a clock.

    The time that it waited for a processor is left out. Where it is not known, it counts.
    """
    try:
        waited = int(_SCHEDULE.read_bytes().split()[1])
    except (OSError, IndexError):
        waited = 0
    return time.monotonic() - waited / 1e9


def bare_loop() -> None:
    """Do a fixed amount of work."""
    total, kept = 0, {}
    for number in range(100_000):
        total += number * 3 % 7
        kept[number & 63] = total


class Pace:
    """How slow the machine is, by bare loops."""

    def __init__(self, clock: Callable[[], float] = own_seconds) -> None:
        self._clock = clock
        self._turns: list[float] = []

    def turn(self) -> None:
        """Do one bare loop; call this again and again between the parts of what is measured."""
        began = self._clock()
        bare_loop()
        self._turns.append(self._clock() - began)

    @property
    def slowness(self) -> float:
        """How many times as long as on a quiet machine a bare loop takes on average."""
        return mean(self._turns) / QUIET_SECONDS

    @property
    def least_slowness(self) -> float:
        """The same for the bare loop that was disturbed least."""
        return min(self._turns) / QUIET_SECONDS


def quiet_seconds(work: Callable[[], object], *, turns: int = 3) -> float:
    """Return the seconds that some work takes on a quiet machine: the least of some turns."""
    pace, taken = Pace(), []
    for _ in range(turns):
        pace.turn()
        began = own_seconds()
        work()
        taken.append(own_seconds() - began)
    pace.turn()
    return min(taken) / pace.least_slowness


def quiet_seconds_until(look: Callable[[], object], *, seconds: float, what: str) -> float:
    """Wait for a state that other processes bring about; return its seconds on a quiet machine.

    Bare loops between the looks wait for a processor as those processes do. On a machine that is
    faster than a quiet one, real seconds are returned, since most of them are spent sleeping.
    """
    pace, began = Pace(time.monotonic), time.monotonic()

    def look_again() -> object:
        pace.turn()
        return look()

    eventually(look_again, seconds=seconds, what=what)
    return (time.monotonic() - began) / max(pace.slowness, 1)
