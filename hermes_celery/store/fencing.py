"""The actor of a write: a leader with its fencing token, a worker, or a person."""

from __future__ import annotations

import msgspec


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """The acting leader, worker or person, and the server's time at which it acts.

    Scripts compare a leader's fencing token first, and refuse one that is not the latest.
    """

    now_ms: int
    #: The leader's fencing token; None when a person or a worker acts.
    token: int | None = None
    #: The shard of the due index that the leader holds.
    shard: int = 0
