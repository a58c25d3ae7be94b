"""Compute how long to wait before the next attempt: exponential, capped, jittered.

All growing waits of the processes are computed here, from the number of failures in a row or from
the time waited so far. (Scripts that count failures on the server double their waits there, in the
same step.)
"""

from __future__ import annotations

#: After this number of doublings every wait has reached its cap.
_MOST_DOUBLINGS = 30


def backoff(failures: int, *, first: float, most: float) -> float:
    """Return the wait after `failures` (1 or more) failures in a row: `first`, doubled up to
    `most`.

    The unit is that of `first` and `most`.
    """
    return min(first * 2.0 ** min(failures - 1, _MOST_DOUBLINGS), most)


def backoff_since(waited: int, *, first: int, most: int) -> int:
    """Return the next wait if only the sum of the waits so far is known.

    Waits of 1, 2, ... 2^k units add up to one unit less than the next wait.
    """
    return min(max(waited, 0) + first, most)


def jittered(wait: float, jitter: float) -> float:
    """Return a wait of which the second half is random; `jitter` is a number from 0 to 1.

    So attempts that failed together are not repeated together ("equal jitter", AWS Architecture
    Blog, 2015).
    """
    return wait * (1 + jitter) / 2
