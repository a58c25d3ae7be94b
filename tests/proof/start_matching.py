"""Assign starts to occurrences, for histories without run ids.

Jepsen's checker of Chronos knew only when a job had run. So it had to find *some* assignment of
runs to targets: each target takes one run that began within its window, each run serves one target.
The largest such assignment decides: what is left on either side is lost or too much.

Windows on a line make the graph convex, so the greedy rule of Glover (1967) is optimal: take the
starts in order, and give each to the open window that closes first.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import msgspec


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The time in which an occurrence may start, Unix ms, both ends included."""

    opens_ms: int
    closes_ms: int


class Matching(msgspec.Struct, frozen=True, kw_only=True):
    """The largest assignment, as positions in the given sequences."""

    #: Position of a window -> position of its start.
    pairs: dict[int, int]
    #: Windows without a start.
    missing: tuple[int, ...]
    #: Starts without a window.
    extra: tuple[int, ...]


def match(windows: Sequence[Window], starts_ms: Sequence[int]) -> Matching:
    """Return an assignment of as many starts to windows as possible."""
    waiting = sorted(range(len(windows)), key=lambda i: windows[i].opens_ms, reverse=True)
    opened: list[tuple[int, int]] = []
    pairs: dict[int, int] = {}
    for start in sorted(range(len(starts_ms)), key=lambda i: starts_ms[i]):
        at_ms = starts_ms[start]
        while waiting and windows[waiting[-1]].opens_ms <= at_ms:
            window = waiting.pop()
            heapq.heappush(opened, (windows[window].closes_ms, window))
        while opened and opened[0][0] < at_ms:
            heapq.heappop(opened)
        if opened:
            pairs[heapq.heappop(opened)[1]] = start
    taken = set(pairs.values())
    return Matching(
        pairs=pairs,
        missing=tuple(i for i in range(len(windows)) if i not in pairs),
        extra=tuple(i for i in range(len(starts_ms)) if i not in taken),
    )
