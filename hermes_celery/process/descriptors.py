"""Check how many files a worker may open, and raise the limit if it is too low.

A process at its limit can neither accept work nor log why: connections and pipes to pool processes
fail at random places. So the limit is checked before the worker starts.
"""

from __future__ import annotations

import resource

import msgspec

#: A worker without slots opens about thirty files; the rest is for the project's own files.
_BASE = 64
#: Celery opens pipes and a sentinel for each pool process; a run in a thread opens the pipes to
#: its child and a connection.
_PER_SLOT = 8


class Shortage(msgspec.Struct, frozen=True, kw_only=True):
    """A limit of open files that is too low for a worker."""

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
    """Raise the soft limit to what a worker needs; return a shortage if the hard limit is less."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _BASE + _PER_SLOT * slots
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return None if most >= needed else Shortage(slots=slots, needed=needed, limit=most)
