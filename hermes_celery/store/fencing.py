"""Who acts on what is stored, and by which right."""

from __future__ import annotations

import msgspec


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who acts, and at which instant of the server: a leader, a worker or a person.

    Scripts compare a leader's fencing token first, and refuse one that is not the latest.
    """

    now_ms: int
    #: The leader's fencing token; None: a person or a worker acts.
    token: int | None = None
    #: The shard of the due index that it leads.
    shard: int = 0
