"""Judge from the signs of workers whether somebody consumes each queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from hermes_celery.instant import from_ms
from hermes_celery.store import Database, ForeignQueue, ForeignQueues, QueueLoad, WorkerSign
from hermes_celery.store.queue_load import WaitingMessages
from hermes_celery.store.worker_signs import alive

#: A worker's main loop asks every second; without a question for this time it does not consume.
SILENT_MS = 30_000
#: How many runs are read to find the one that waits longest.
_OLDEST_OF = 50


class QueueState(StrEnum):
    """The state of a queue's consumers."""

    #: A worker with a free slot asks for them.
    OK = "ok"
    #: All slots of its workers are taken.
    BUSY = "busy"
    #: Living workers report that they consume it, but do not ask for messages.
    SILENT = "silent"
    #: Only workers without our hooks consume it; they answered a moment ago.
    FOREIGN = "foreign"
    #: No living worker consumes it.
    NOBODY = "nobody"
    #: A living worker does not report its queues: version 0.1.0.
    UNKNOWN = "unknown"


class QueueFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The stored facts about one queue. Instants are the server's, Unix milliseconds."""

    waiting: WaitingMessages
    #: When a worker last took a message from it.
    taken_ms: int | None = None
    #: When the longest waiting run was queued.
    oldest_ms: int | None = None
    #: The workers without our hooks that consume it.
    foreign: ForeignQueue | None = None


class QueueLook(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one queue at one instant. Instants are the server's, Unix milliseconds."""

    name: str
    state: QueueState
    waiting: int
    #: The living workers that report that they consume it.
    workers: list[str]
    #: When a worker last took a message from it; None if that is unknown.
    taken_ms: int | None = None
    #: The workers without our hooks that consume it, or did within a day.
    foreign: list[str] = []
    #: When the longest waiting run was queued, among the runs that are read.
    oldest_ms: int | None = None

    @property
    def foreign_warning(self) -> str:
        """A sentence about the consumers that do not report."""
        who = ", ".join(self.foreign)
        return (
            f"queue '{self.name}' is consumed by {who} without Cron(app): runs of the tasks that "
            "they execute end as sent, not followed"
        )

    @property
    def since(self) -> str:
        """The end of a sentence that says since when nothing was taken."""
        if self.taken_ms is None:
            return "as far as is known"
        return f"since {from_ms(self.taken_ms):%Y-%m-%d %H:%M:%S} UTC"


class LivingWorkers(msgspec.Struct, frozen=True, kw_only=True):
    """The living workers and their signs."""

    names: Sequence[str]
    signs: Mapping[str, WorkerSign]

    def consumers(self, queue: str) -> dict[str, WorkerSign]:
        """Return the signs of the workers that report that they consume a queue."""
        return {name: sign for name, sign in self.signs.items() if queue in sign.queues}

    @property
    def has_older(self) -> bool:
        """True if a living worker does not report its queues, as in version 0.1.0."""
        return any(name not in self.signs for name in self.names)

    def silent(self, *, now_ms: int) -> list[str]:
        """Return the living workers that do not ask for messages of any queue."""
        return [
            name
            for name, sign in self.signs.items()
            if not sign.is_full
            and not any(is_asking(sign, queue, now_ms=now_ms) for queue in sign.queues)
        ]


def living_workers(database: Database, *, now_ms: int) -> LivingWorkers:
    """Return the living workers. Raises StoreError."""
    names = alive(database, now_ms=now_ms)
    signs = QueueLoad(database).signs()
    return LivingWorkers(names=names, signs={name: signs[name] for name in names if name in signs})


def look_at_queues(database: Database, who: LivingWorkers, *, now_ms: int) -> list[QueueLook]:
    """Return the state of every known queue, sorted by name. Raises StoreError."""
    load = QueueLoad(database)
    taken, oldest = load.taken(), load.oldest(limit=_OLDEST_OF)
    foreign = ForeignQueues(database).read()
    names = (
        load.queues()
        | foreign.keys()
        | set(oldest)
        | {q for s in who.signs.values() for q in s.queues}
    )
    waiting = load.waiting(names)
    return [
        judge(
            name,
            QueueFacts(
                waiting=waiting[name],
                taken_ms=taken.get(name),
                oldest_ms=oldest.get(name),
                foreign=foreign.get(name),
            ),
            who,
            now_ms=now_ms,
        )
        for name in sorted(names)
    ]


def judge(queue: str, facts: QueueFacts, who: LivingWorkers, *, now_ms: int) -> QueueLook:
    """Return the state of one queue."""
    consumers = who.consumers(queue)
    state = _state(queue, consumers, has_older=who.has_older, now_ms=now_ms)
    foreign = facts.foreign if facts.foreign is not None and facts.foreign.is_sure else None
    if state is QueueState.NOBODY and foreign is not None and foreign.is_fresh(now_ms):
        state = QueueState.FOREIGN
    return QueueLook(
        name=queue,
        state=state,
        foreign=[] if foreign is None else foreign.workers,
        waiting=facts.waiting.length,
        workers=sorted(consumers),
        taken_ms=facts.taken_ms,
        oldest_ms=facts.oldest_ms,
    )


def _state(
    queue: str, consumers: Mapping[str, WorkerSign], *, has_older: bool, now_ms: int
) -> QueueState:
    if any(
        not sign.is_full and is_asking(sign, queue, now_ms=now_ms) for sign in consumers.values()
    ):
        return QueueState.OK
    if any(sign.is_full for sign in consumers.values()):
        return QueueState.BUSY
    if has_older:
        return QueueState.UNKNOWN
    return QueueState.SILENT if consumers else QueueState.NOBODY


def is_asking(sign: WorkerSign, queue: str, *, now_ms: int) -> bool:
    """Return whether a worker's main loop asked for messages of a queue a moment ago."""
    return now_ms - sign.queues.get(queue, 0) <= SILENT_MS
