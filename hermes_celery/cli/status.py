"""What `status` reads: a few numbers, none of which costs more with more jobs."""

from __future__ import annotations

import msgspec

from hermes_celery.queue_state import QueueLook, crew, look_at_queues
from hermes_celery.store import Database, DueIndex, Incidents, Jobs, Runs


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a namespace."""

    server: str
    #: The server's time, Unix milliseconds.
    now_ms: int
    #: Who leads: host, process id and a random part; several names where the due index is split.
    #: None where nobody leads, or a shard has no leader.
    leader: str | None
    #: The leader's term, its fencing token; it counts changes of leadership (of shard 0).
    term: int
    #: Into how many shards the due index is split, and which of them nobody leads.
    shards: int
    unled: list[int]
    workers: list[str]
    #: Those of them whose main loop asks for no messages.
    silent_workers: list[str]
    #: Each Celery queue that is known, and whether somebody takes what waits on it.
    queues: list[QueueLook]
    jobs: int
    next_due_ms: int | None
    queued: int
    running: int
    #: Open incidents, acknowledged ones included.
    incidents: int
    #: When everything was paused, and why; None when it is not.
    paused_ms: int | None
    pause_note: str


def read_status(database: Database) -> Status:
    """Look. Raises StoreError."""
    keys = database.keys
    now_ms = database.now_ms()
    who = crew(database, now_ms=now_ms)
    counts = Runs(database).counts()
    shards = range(database.shards)
    leases = [database.call("GET", keys.lease_of(shard)) for shard in shards]
    unled = [shard for shard, owner in zip(shards, leases, strict=True) if owner is None]
    due = [DueIndex(database, shard=shard).next_due_ms() for shard in shards]
    switch = DueIndex(database).switch()
    return Status(
        server=database.version,
        now_ms=now_ms,
        leader=None if unled else ", ".join(sorted(set(leases))),
        term=int(database.call("GET", keys.term) or 0),
        shards=len(shards),
        unled=unled,
        workers=list(who.names),
        silent_workers=who.silent(now_ms=now_ms),
        queues=look_at_queues(database, who, now_ms=now_ms),
        jobs=Jobs(database).count(),
        next_due_ms=min((ms for ms in due if ms is not None), default=None),
        queued=counts["queued"],
        running=counts["running"],
        incidents=Incidents(database).count(),
        paused_ms=switch.paused_ms,
        pause_note=switch.note,
    )
