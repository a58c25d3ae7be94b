"""Detect queues from which no worker takes messages, and queues that grow.

If a queue's next message stays the same from one check to the next, no worker takes messages from
it, whatever consumers and workers report. That is the proof. What workers report
(`store.queue_health`) only decides the wording, and suppresses a report when the cause is unknown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from hermes_celery.core.counted import counted
from hermes_celery.core.incidents import Trouble, TroubleKind
from hermes_celery.store import Database, Jobs, TroubleSigns, worker_app, worker_command
from hermes_celery.store.queue_health import (
    LivingWorkers,
    QueueLook,
    QueueState,
    living_workers,
    look_at_queues,
)
from hermes_celery.store.queue_load import QueueLoad, base_of

#: The same message must be next for this long before it is an incident.
_STUCK_MS = 30_000
_GROWS_MS = 60_000
#: A queue that grew by less in a minute is not reported.
_GROWN_BY = 10
_LONG_WAIT_MS = 300_000
#: The most waiting runs that are checked for the wrong queue.
_LOOKED_AT = 100


class _Sample(msgspec.Struct, frozen=True, kw_only=True):
    at_ms: int
    length: int
    next_up: str


class QueueWatch:
    """One leader's memory of the queues."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._load = QueueLoad(database)
        self._signs = TroubleSigns(database)
        self._jobs = Jobs(database)
        self._samples: dict[str, deque[_Sample]] = {}

    def forget(self) -> None:
        """Start over: earlier samples are too old to compare with."""
        self._samples.clear()

    def look(self, now_ms: int) -> tuple[list[Trouble], LivingWorkers]:
        """Return the queues' current troubles, and the workers. Raises StoreError."""
        who = living_workers(self._database, now_ms=now_ms)
        looks = look_at_queues(self._database, who, now_ms=now_ms)
        waiting = self._load.waiting([look.name for look in looks if look.waiting])
        self._samples = {
            look.name: self._sampled(look, waiting[look.name].next_up, now_ms=now_ms)
            for look in looks
            if look.waiting
        }
        found = []
        for look in looks:
            samples = self._samples.get(look.name, ())
            trouble = self._stuck(look, samples, who, now_ms)
            if trouble is None and look.state not in (QueueState.NOBODY, QueueState.SILENT):
                trouble = _grows(look, samples, now_ms)
            if trouble is not None:
                found.append(trouble)
            if look.foreign:
                found.append(_unfollowed(look))
        return found + self._misplaced(looks), who

    def _misplaced(self, looks: Sequence[QueueLook]) -> list[Trouble]:
        """Return a trouble for each queue where a run waits that its consumers cannot perform.

        These are runs of our own kinds of work, on queues that only foreign workers consume.
        """
        foreign = {look.name: look for look in looks if look.state is QueueState.FOREIGN}
        waiting = self._signs.waiting(limit=_LOOKED_AT) if foreign else []
        first = {base_of(run.queue): run for run in reversed(waiting)}
        specs = self._jobs.specs([run.job_id for run in first.values()])
        return [
            Trouble(
                kind=TroubleKind.QUEUE,
                subject=name,
                text=_MISPLACED.format(
                    job=run.job_name, queue=name, workers=", ".join(foreign[name].foreign)
                ),
            )
            for name, run in sorted(first.items())
            if name in foreign and run.job_id in specs and specs[run.job_id].task is None
        ]

    def _sampled(self, look: QueueLook, next_up: str, *, now_ms: int) -> deque[_Sample]:
        samples = self._samples.get(look.name) or deque()
        samples.append(_Sample(at_ms=now_ms, length=look.waiting, next_up=next_up))
        # The first sample kept is the latest one that is at least a minute old.
        while len(samples) > 1 and now_ms - samples[1].at_ms >= _GROWS_MS:
            samples.popleft()
        return samples

    def _stuck(
        self, look: QueueLook, samples: Sequence[_Sample], who: LivingWorkers, now_ms: int
    ) -> Trouble | None:
        if not who.names and look.name == self._database.keys.default_queue:
            return None  # an incident of its own reports that there are no workers
        since_ms = _unchanged_since(samples)
        if since_ms is None or now_ms - since_ms < _STUCK_MS:
            return None
        text = _STUCK.get(look.state)
        if text is None:
            return None
        app = worker_app(self._database, now_ms=now_ms)
        told = text.format(
            start=worker_command(app, queue=look.name),
            queue=look.name,
            messages_wait=counted(look.waiting, "message waits", "messages wait"),
            wait=counted(look.waiting, "waits", "wait"),
            since=look.since,
            workers=", ".join(look.workers),
        )
        # A notice about the delivery queue would wait on that queue, so it is sent from here.
        from_here = look.name == self._database.keys.delivery_queue
        return Trouble(kind=TroubleKind.QUEUE, subject=look.name, text=told, from_here=from_here)


def unserved(database: Database, *, now_ms: int) -> str:
    """Return the text about waiting runs if there is no worker at all; "" if none wait.

    Raises StoreError.
    """
    looks = look_at_queues(database, living_workers(database, now_ms=now_ms), now_ms=now_ms)
    left = [look for look in looks if look.waiting and look.state is QueueState.NOBODY]
    if not left:
        return ""
    count, names = sum(look.waiting for look in left), [look.name for look in left]
    waiting = counted(count, "run waits", "runs wait")
    app = worker_app(database, now_ms=now_ms)
    # A worker started without -Q consumes these queues.
    if {database.keys.default_queue, database.keys.delivery_queue}.issuperset(names):
        return f"{waiting} and there is no worker → {worker_command(app)}"
    start = worker_command(app, queue=",".join(names))
    named = ", ".join(f"'{name}'" for name in names)
    return f"{waiting} on queue {named} and there is no worker → {start}"


#: Other states are not reported: workers without a free slot, or perhaps of version 0.1.0.
_STUCK: Mapping[QueueState, str] = {
    QueueState.NOBODY: ("{messages_wait} on queue '{queue}' and no worker consumes it → {start}"),
    QueueState.SILENT: (
        "no worker has taken a message from queue '{queue}' {since}, {wait}, and {workers}"
        " asks for no messages → see its log, and restart it"
    ),
    QueueState.OK: (
        "no worker has taken a message from queue '{queue}' {since} and {wait}, although"
        " {workers} asks for them → restart it; is its broker this server?"
    ),
}


_MISPLACED = (
    "a run of Cron '{job}' waits on queue '{queue}', which only {workers} without Cron(app) "
    "consumes; it cannot perform it → give the job another queue, or start a worker with Cron(app) "
    "there"
)


def _unfollowed(look: QueueLook) -> Trouble:
    return Trouble(
        kind=TroubleKind.UNFOLLOWED, subject=look.name, text=look.foreign_warning, is_news=True
    )


def _unchanged_since(samples: Sequence[_Sample]) -> int | None:
    """Return the time of the first sample with the present next message, Unix ms, or None."""
    since_ms = None
    for sample in reversed(samples):
        if sample.next_up != samples[-1].next_up:
            break
        since_ms = sample.at_ms
    return since_ms


def _grows(look: QueueLook, samples: Sequence[_Sample], now_ms: int) -> Trouble | None:
    """Return a trouble if a queue grew during the last minute, or a run on it waits too long."""
    waited_s = 0 if look.oldest_ms is None else (now_ms - look.oldest_ms) // 1000
    if samples and _has_grown(samples, now_ms):
        text = (
            f"queue '{look.name}' grew from {samples[0].length} to "
            f"{counted(look.waiting, 'message')} in "
            f"{(now_ms - samples[0].at_ms) // 1000} s, the oldest waits {waited_s} s"
        )
    elif samples and waited_s * 1000 >= _LONG_WAIT_MS:
        text = (
            f"a run waits {waited_s} s on queue '{look.name}', "
            f"with {counted(look.waiting, 'message')} on it"
        )
    else:
        return None
    advice = " → start more workers, or raise HERMES_CRON_MAX_WORKERS"
    return Trouble(kind=TroubleKind.BACKLOG, subject=look.name, text=text + advice)


def _has_grown(samples: Sequence[_Sample], now_ms: int) -> bool:
    first, last = samples[0], samples[-1]
    return (
        now_ms - first.at_ms >= _GROWS_MS
        and last.length - first.length >= _GROWN_BY
        and all(first.length <= sample.length <= last.length for sample in samples)
    )
