"""What `status` reads: a few numbers, none of which costs more with more jobs."""

from __future__ import annotations

import msgspec

from hermes_celery.store import Database, DueIndex, Incidents, Jobs, Runs
from hermes_celery.workers import alive


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a namespace."""

    server: str
    #: Who holds the lease: host, process id and a random part.
    leader: str | None
    #: The leader's term, its fencing token; it counts changes of leadership.
    term: int
    workers: list[str]
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
    counts = Runs(database).counts()
    due = DueIndex(database)
    switch = due.switch()
    return Status(
        server=database.version,
        leader=database.call("GET", keys.lease),
        term=int(database.call("GET", keys.term) or 0),
        workers=alive(database, now_ms=database.now_ms()),
        jobs=Jobs(database).count(),
        next_due_ms=due.next_due_ms(),
        queued=counts["queued"],
        running=counts["running"],
        incidents=Incidents(database).count(),
        paused_ms=switch.paused_ms,
        pause_note=switch.note,
    )
