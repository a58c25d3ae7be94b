"""How many files a worker may open, and whether that is enough.

A process whose limit is used up can neither accept work nor say so: pipes to pool processes and
connections fail at random places. So the limit is looked at before the worker starts.
"""

from __future__ import annotations

import resource

import msgspec

#: A worker without slots has about thirty open; the rest is for what a project opens by itself.
_BASE = 64
#: Per pool process Celery keeps its pipes and a sentinel; a run in a thread keeps the pipes to its
#: child and a connection.
_PER_SLOT = 8


class Shortage(msgspec.Struct, frozen=True, kw_only=True):
    """A limit that is too low for a worker."""

    slots: int
    needed: int
    limit: int

    def __str__(self) -> str:
        return (
            f"this process may open {self.limit} files and a worker with {self.slots} slots needs "
            f"about {self.needed}; raise the limit (ulimit -Hn, LimitNOFILE=), or give the worker "
            "fewer slots (--concurrency, HERMES_CRON_MAX_WORKERS)"
        )


def make_room(slots: int) -> Shortage | None:
    """Raise the soft limit as far as a worker needs and the hard limit lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _BASE + _PER_SLOT * slots
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return None if most >= needed else Shortage(slots=slots, needed=needed, limit=most)
