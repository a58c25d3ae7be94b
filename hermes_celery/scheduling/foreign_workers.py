"""Find Celery workers without our hooks on the queues of task jobs, and decide what follows.

Celery workers without `Cron(app)` execute a task and report nothing to hermes-celery. Workers with
our hooks write a worker sign to the store (`store.worker_signs`); these "foreign" workers do not.
The leader finds them by asking Celery which queues each worker consumes. It never infers them from
the absence of other workers. A thread asks, so that a tick never waits:

- at once, when a task goes to a queue that no worker with hooks consumes;
- at intervals while there is such a queue, or while a foreign worker is there;
- every few seconds while any run is queued;
- before a task's run is pushed again.

The answers are stored for other processes and for the next leader, and hold for a minute. The last
time a foreign worker was seen is kept for a day, because a worker that has left may have taken a
message. Not found: a worker that comes and goes between two questions, and one that never answers.

    queue has only foreign workers     a run ends as `sent` when it is pushed
    queue has both kinds               a run is followed; if its message has left the queue and no
                                       worker claimed it, it ends as sent: a foreign worker may
                                       have executed it
    foreign workers left after the     the same
    run was queued
    no foreign workers since the       its message was lost, and is pushed again
    run was queued
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from hermes_celery.events import RateLimitedLog, event
from hermes_celery.instant import to_ms
from hermes_celery.store import Fate, ForeignQueue, ForeignQueues, QueueLoad
from hermes_celery.store.queue_health import LivingWorkers, living_workers
from hermes_celery.store.queue_load import base_of
from hermes_celery.store.worker_signs import node_of

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.core.job import JobSpec
    from hermes_celery.core.run import Run
    from hermes_celery.store import Database

_log = logging.getLogger(__name__)

_ASK_EVERY_MS = 15_000
#: The interval while a queue has no known consumer.
_ASK_SOON_MS = 5_000
#: The interval while runs are queued: a worker may take a message and leave soon after.
_ASK_QUEUED_MS = 3_000
#: A foreign worker may have taken a message up to this long after it was first found missing.
_UNSEEN_MS = 10_000
#: Seconds between two checks of the thread for a reason to ask.
_LOOK_SECONDS = 3.0
#: A run waits at most this long for an answer before it is pushed again, in case asking hangs.
_PATIENCE_MS = 20_000
#: A worker that has our tasks and writes no worker sign for this long belongs to another namespace.
_STRANGE_MS = 60_000
_MOST_GONE = 10_000
#: A list found empty counts as empty this long. It is shorter than the wait before a message is
#: pushed again, so the message of every overdue run was pushed before the list was found empty.
_EMPTY_MS = 30_000
#: A queue is forgotten this long after a foreign worker was last seen on it.
_FORGET_MS = 86_400_000


def _begin_thread(loop: Callable[[], None]) -> None:
    threading.Thread(target=loop, name="hermes-foreign-workers", daemon=True).start()


class AsksWorkers(Protocol):
    """Asks Celery's workers: `inspecting.Inspection`, or a fake in tests."""

    def queues(self) -> Sequence[tuple[str, Collection[str]]]:
        """Return each answer: a worker's name and its queues. Several workers may share a name."""

    def with_hooks(self, workers: Collection[str]) -> Collection[str]:
        """Return the given workers that have our tasks."""


class _Consumer(msgspec.Struct, frozen=True, kw_only=True):
    """A worker on a queue, without a worker sign of ours."""

    worker: str
    queue: str
    #: Whether the worker is foreign for certain.
    is_sure: bool


class ForeignWorkers:
    """One leader's knowledge of foreign workers. Every method except `look` returns at once."""

    def __init__(
        self,
        database: Database,
        *,
        asking: AsksWorkers,
        clock: Clock,
        key_prefix: str = "",
        begin: Callable[[Callable[[], None]], None] = _begin_thread,
    ) -> None:
        """Take a `database` used by this object alone; `begin` starts the loop that asks.

        `key_prefix` is the prefix of each queue's key in Redis.
        """
        self._begin = begin
        self._has_begun = False
        self._has_read = False
        self._database = database
        self._stored = ForeignQueues(database)
        self._asking = asking
        self._clock = clock
        self._key_prefix = key_prefix
        self._complaint = RateLimitedLog()
        self._wanted = threading.Event()
        #: Queues that task messages were sent to.
        self._task_queues: set[str] = set()
        self._known: Mapping[str, ForeignQueue] = {}
        #: Queues whose unknown consumers may be our own workers that have just started.
        self._suspected: dict[str, ForeignQueue] = {}
        #: Queues with foreign consumers only, with the reason to record for a sent run.
        self._only: Mapping[str, str] = {}
        #: When the last answered question was asked, and the last question of all.
        self._heard_ms = 0
        self._asked_ms = 0
        #: By run: when its message was first found missing from its queue.
        self._gone: dict[str, int] = {}
        #: By Redis list: when it was found empty.
        self._empty: dict[str, int] = {}
        #: Worker and queue without a worker sign of ours, and when they first answered.
        self._unsigned: Mapping[tuple[str, str], int] = {}

    def begin(self) -> None:
        """Continue with what the previous leader has stored. Raises StoreError."""
        self._remember()
        if self._task_queues:
            self._want()

    def why_sent(self, spec: JobSpec, queue: str) -> str:
        """Return why a run pushed to that Redis list now ends as sent; "" if it is followed."""
        if spec.task is None:
            return ""
        name = self._name(queue)
        if name not in self._task_queues:
            self._task_queues.add(name)
            self._want()
        return self._only.get(name, "")

    def fate(self, run: Run, spec: JobSpec, *, queue: str, now_ms: int) -> Fate:
        """Return what to do with a run that no worker claimed in time."""
        if spec.task is None:
            return Fate()
        why = self.why_sent(spec, queue)
        hesitates = not self._was_asked(run, queue, now_ms=now_ms)
        return Fate(
            looks=True,
            hesitates=hesitates,
            when_gone=self._why_taken(
                self._name(queue), queued_ms=to_ms(run.queued_at), was_asked=not hesitates
            ),
            when_pushed=why,
        )

    def _why_taken(self, name: str, *, queued_ms: int, was_asked: bool) -> str:
        """Return why a foreign worker may have taken a run since it was queued; "" if none can.

        Workers that have left since then count as well.
        """
        known = self._known.get(name)
        if known is not None and known.seen_ms >= queued_ms:
            return known.why_taken
        if not was_asked:
            return ""
        for one in (known, self._suspected.get(name)):
            if one is not None and one.may_have_taken(queued_ms - _UNSEEN_MS):
                return one.why_taken
        return ""

    def is_gone(self, run: Run, *, now_ms: int, empty: str = "") -> None:
        """Note that a run's message has left its queue, and ask the workers who may have taken it.

        `empty` is the Redis list, if all other messages have left it too.
        """
        if len(self._gone) > _MOST_GONE:
            self._gone.clear()
        if empty and now_ms - self._empty.get(empty, 0) > _EMPTY_MS:
            self._empty[empty] = now_ms
        if self._gone.setdefault(run.id, now_ms) == now_ms:
            self._want()

    def _was_asked(self, run: Run, queue: str, *, now_ms: int) -> bool:
        """Return whether the workers were asked since the run's message was found missing."""
        # One answer after the list was found empty serves every overdue run on it, because the
        # message of each was pushed before then.
        emptied_ms = self._empty.get(queue, 0)
        if now_ms - emptied_ms <= _EMPTY_MS and self._heard_ms >= emptied_ms:
            self._gone.pop(run.id, None)
            return True
        gone_ms = self._gone.get(run.id)
        if gone_ms is None:
            return False
        if self._heard_ms < gone_ms and now_ms - gone_ms < _PATIENCE_MS:
            return False
        del self._gone[run.id]
        return True

    def only_foreign(self, queue: str) -> str:
        """Return why a run ends as sent if its message has left that list; "" if it does not."""
        name = self._name(queue)
        return self._known[name].why_taken if name in self._only else ""

    @property
    def has_any(self) -> bool:
        """True if a queue is known that only foreign workers consume."""
        return bool(self._only)

    def look(self, now_ms: int) -> None:
        """Ask the workers if there is reason to, and store the answers. Raises what asking does."""
        who = living_workers(self._database, now_ms=now_ms)
        if not self._has_read:
            self._remember()
        # The stored knowledge already holds; the answers take a second or two.
        self._judge(who, now_ms=now_ms)
        if self._wanted.is_set() or self._is_due(who, now_ms):
            self._wanted.clear()
            self._asked_ms = now_ms
            try:
                self._remember_answers(self._foreign(who, now_ms), who, now_ms=now_ms)
            finally:
                # A question without an answer must not hold a lost message back for ever.
                self._heard_ms = now_ms
        self._judge(who, now_ms=now_ms)

    def _is_due(self, who: LivingWorkers, now_ms: int) -> bool:
        if now_ms - self._asked_ms >= _ASK_QUEUED_MS and self._is_any_queued():
            return True
        lacking = {name for name in self._task_queues if not who.consumers(name)}
        # Ask until they leave. A message that is queued long after that was lost, not taken.
        if not lacking and not self._is_any_there():
            return False
        wait_ms = _ASK_EVERY_MS if lacking <= self._only.keys() else _ASK_SOON_MS
        return now_ms - self._asked_ms >= wait_ms

    def _is_any_there(self) -> bool:
        """Return whether a foreign worker answered the last question."""
        return any(not one.gone_ms for one in (*self._known.values(), *self._suspected.values()))

    def _is_any_queued(self) -> bool:
        """Return whether a run is queued, whose message a foreign worker may have taken."""
        return bool(self._task_queues and QueueLoad(self._database).queued())

    def _remember(self) -> None:
        """Read what the previous leader has stored."""
        stored = {name: one for name, one in self._stored.read().items() if one.is_sure}
        self._known = {**stored, **self._known}
        self._task_queues |= self._known.keys()
        self._has_read = True

    def _foreign(self, who: LivingWorkers, now_ms: int) -> list[_Consumer]:
        """Return the consumers of our tasks' queues that have no worker sign of ours."""
        before = self._unsigned
        found = _unsigned(self._asking.queues(), who, self._task_queues)
        self._unsigned = {one: before.get(one, now_ms) for one in found}
        # A starting worker answers before it writes its first sign; a worker that cannot write
        # has none. A worker with our tasks and without a sign for long is another namespace's.
        workers = {worker for worker, _ in found}
        hooked = self._asking.with_hooks(workers) if workers else ()
        return [
            _Consumer(
                worker=worker,
                queue=queue,
                is_sure=worker not in hooked or now_ms - since_ms >= _STRANGE_MS,
            )
            for (worker, queue), since_ms in sorted(self._unsigned.items())
        ]

    def _remember_answers(
        self, foreign: Sequence[_Consumer], who: LivingWorkers, *, now_ms: int
    ) -> None:
        found = {
            name: ForeignQueue(
                name=name,
                workers=[one.worker for one in foreign if one.queue == name],
                seen_ms=now_ms,
                is_shared=_has_hooks(who, name),
                is_sure=any(one.is_sure for one in foreign if one.queue == name),
            )
            for name in sorted({one.queue for one in foreign})
        }
        new = {name: one for name, one in found.items() if one.is_sure}
        self._suspect(found, who, now_ms=now_ms)
        old = [name for name, one in self._known.items() if now_ms - one.seen_ms > _FORGET_MS]
        kept = {name: one for name, one in self._known.items() if name not in old}
        left = {
            name: msgspec.structs.replace(one, gone_ms=now_ms)
            for name, one in kept.items()
            if name not in new and not one.gone_ms
        }
        self._known = {**kept, **left, **new}
        self._task_queues -= set(old)
        self._stored.write({**left, **new})
        self._stored.forget(old)

    def _suspect(
        self, found: Mapping[str, ForeignQueue], who: LivingWorkers, *, now_ms: int
    ) -> None:
        """Note workers that may be foreign, until they write a worker sign of ours."""
        ours = {node_of(name) for name in who.signs}
        for name, one in list(self._suspected.items()):
            if ours.issuperset(one.workers) or now_ms - one.seen_ms > _FORGET_MS:
                del self._suspected[name]
            elif not one.gone_ms:
                self._suspected[name] = msgspec.structs.replace(one, gone_ms=now_ms)
        self._suspected.update({name: one for name, one in found.items() if not one.is_sure})

    def _judge(self, who: LivingWorkers, *, now_ms: int) -> None:
        before = self._only
        self._only = {
            name: one.why_sent
            for name, one in self._known.items()
            if one.is_sure and one.is_fresh(now_ms) and not _has_hooks(who, name)
        }
        for name in self._only.keys() - before.keys():
            event(_log, "queue.foreign", queue=name, workers=self._known[name].who)
        for name in before.keys() - self._only.keys():
            event(_log, "queue.foreign_no_more", queue=name)

    def _name(self, queue: str) -> str:
        return base_of(queue).removeprefix(self._key_prefix)

    def _want(self) -> None:
        """Make the thread ask soon.

        The first call starts the thread, so the thread starts after any fork.
        """
        self._wanted.set()
        if not self._has_begun:
            self._has_begun = True
            self._begin(self._loop)

    def _loop(self) -> None:
        pause = threading.Event()
        while True:
            try:
                self.look(self._clock.now_ms())
                self._complaint.over()
            except Exception as error:  # noqa: BLE001 - the thread must survive any error
                if self._complaint.may_say(self._clock.monotonic()):
                    event(_log, "queue.unasked", level=logging.WARNING, why=error)
                pause.wait(_LOOK_SECONDS)
            self._wanted.wait(_LOOK_SECONDS)


def _has_hooks(who: LivingWorkers, queue: str) -> bool:
    """Return whether a worker that reports consumes a queue, or may.

    A 0.1.0 worker does not say which queues it consumes.
    """
    return who.has_older or bool(who.consumers(queue))


def _unsigned(
    answers: Sequence[tuple[str, Collection[str]]], who: LivingWorkers, queues: Collection[str]
) -> set[tuple[str, str]]:
    """Return the pairs of worker and queue among the answers that no worker sign accounts for.

    Two workers on one host share a name unless they were given one. So more answers than signs, or
    a queue that no sign names, belong to another worker.
    """
    found = set()
    older = {node_of(name) for name in who.names if name not in who.signs}
    for worker in {name for name, _ in answers} - older:
        given = [consumed for name, consumed in answers if name == worker]
        signs = [sign for name, sign in who.signs.items() if node_of(name) == worker]
        signed = {queue for sign in signs for queue in sign.queues}
        for consumed in given:
            left = set(consumed) if len(given) > len(signs) else set(consumed) - signed
            found |= {(worker, queue) for queue in left.intersection(queues)}
    return found
