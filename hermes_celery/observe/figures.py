"""Read the figures of `status`, at a cost that does not grow with the number of jobs.

A key that cannot be read is named, and only its own figure is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from hermes_celery.errors import RecordBroken
from hermes_celery.observe.lost_jobs import lost_jobs
from hermes_celery.store import (
    OUR_APP,
    Database,
    Declarations,
    DueIndex,
    Incidents,
    Jobs,
    QueueLoad,
    worker_app,
)
from hermes_celery.store.leases import read_leaders
from hermes_celery.store.loss_note import LossNote
from hermes_celery.store.queue_health import (
    LivingWorkers,
    QueueLook,
    living_workers,
    look_at_queues,
)

_T = TypeVar("_T")


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a namespace at one moment."""

    server: str
    #: The server's time, Unix milliseconds.
    now_ms: int
    #: The leading beat: host, process id and a random part. Several names if the due index is
    #: split; None if a shard has no leader.
    leader: str | None
    #: The leader's term, its fencing token; it counts changes of leadership (of shard 0).
    term: int
    #: The number of shards of the due index, and the shards without a leader.
    shards: int
    unled: list[int]
    workers: list[str]
    #: The workers whose main loop does not ask for messages.
    silent_workers: list[str]
    #: Each known Celery queue, and whether a worker takes its messages.
    queues: list[QueueLook]
    jobs: int
    next_due_ms: int | None
    queued: int
    running: int
    #: Open incidents, acknowledged ones included.
    incidents: int
    #: When everything was paused, and the reason; None if it is not paused.
    paused_ms: int | None
    pause_note: str
    #: The Celery app of the workers, as `celery -A` takes it; "" if it is an unknown project's.
    app: str = OUR_APP
    #: Unreadable keys, each with its fault; the numbers above leave them out.
    broken: list[str] = []
    #: Declared jobs that were refused, each with the reason.
    refused: list[str] = []
    #: Losses of jobs that nobody has acknowledged, one line each; "" for none.
    gone: str = ""


class _Look:
    """Reads figures one by one, and collects the faults."""

    def __init__(self) -> None:
        self.broken: list[str] = []

    def at(self, read: Callable[[], _T], default: _T) -> _T:
        try:
            return read()
        except RecordBroken as error:
            self.note(error)
            return default

    def note(self, trouble: RecordBroken | None) -> None:
        if trouble is not None:
            text = f"{trouble.key} {trouble.what}"
            self.broken += [] if text in self.broken else [text]


def read_status(
    database: Database, *, app: str | None = None, loss_note: LossNote | None = None
) -> Status:
    """Read the status. Raises StoreError when Redis fails, but never for a single broken key.

    `app` is the app named by the user, as `celery -A` takes it. `loss_note` is this machine's note
    of the jobs that the server held.
    """
    look, now_ms = _Look(), database.now_ms()
    shards = range(database.shards)
    look.note(database.shards_fault())
    leaders = read_leaders(database)
    for fault in leaders.faults:
        look.note(fault)
    owners = leaders.owners
    unled = [shard for shard, owner in zip(shards, owners, strict=True) if owner is None]
    load = QueueLoad(database)
    due = [look.at(DueIndex(database, shard=shard).next_due_ms, None) for shard in shards]
    switch = DueIndex(database).switch()
    look.note(switch.fault)
    who = look.at(
        lambda: living_workers(database, now_ms=now_ms), LivingWorkers(names=[], signs={})
    )
    no_loss: list[str] = []
    gone = look.at(lambda: lost_jobs(database, loss_note), no_loss)
    return Status(
        server=database.version,
        now_ms=now_ms,
        leader=None if unled else ", ".join(sorted({owner for owner in owners if owner})),
        term=leaders.term,
        shards=len(shards),
        unled=unled,
        workers=list(who.names),
        silent_workers=who.silent(now_ms=now_ms),
        queues=look.at(lambda: look_at_queues(database, who, now_ms=now_ms), []),
        jobs=look.at(Jobs(database).count, 0),
        next_due_ms=min((ms for ms in due if ms is not None), default=None),
        queued=look.at(load.queued, 0),
        running=look.at(load.running, 0),
        incidents=look.at(Incidents(database).count, 0),
        paused_ms=switch.paused_ms,
        pause_note=switch.note,
        broken=look.broken,
        app=app or look.at(lambda: worker_app(database, now_ms=now_ms), ""),
        refused=[one.text for one in Declarations(database).refusals() if one.is_refused],
        gone="\n".join(gone),
    )
