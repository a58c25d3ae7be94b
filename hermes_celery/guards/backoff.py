"""How long to wait before what failed is tried again: exponential, capped, jittered.

Every wait of a process that grows is computed here, from the number of failures in a row or from
what was waited so far. (Scripts that count failures on the server double them there, in the same
step.)
"""

from __future__ import annotations

#: Beyond so many doublings every wait has reached its cap.
_MOST_DOUBLINGS = 30


def backoff(failures: int, *, first: float, most: float) -> float:
    """The wait after that many failures in a row, from 1 on: `first`, twice that, ... `most`.

    In whatever unit `first` and `most` are given.
    """
    return min(first * 2.0 ** min(failures - 1, _MOST_DOUBLINGS), most)


def backoff_since(waited: int, *, first: int, most: int) -> int:
    """The next wait where the waits so far are known by their sum alone.

    After waits of 1, 2, ... 2^k units together they are one unit short of the next one.
    """
    return min(max(waited, 0) + first, most)


def jittered(wait: float, jitter: float) -> float:
    """Leave half of a wait to `jitter`, a number from 0 to 1.

    So what failed together is not tried again together ("equal jitter", AWS Architecture Blog,
    2015).
    """
    return wait * (1 + jitter) / 2
