"""Workers without our hooks, on queues that our task jobs go to: found out, and what follows.

Celery's workers without `Cron(app)` execute a task and report nothing. That a queue has such
consumers is known from what they answer to Celery's own question for the queues that they consume,
never guessed from the absence of others. A thread of the leader asks, so that a tick never waits:
as soon as a task goes to a queue that no worker with hooks consumes, from time to time while that
is so, or while one without them is there, every few seconds while any run is queued, and before a
run of a task is pushed again. What it heard is stored, for other processes and for the next leader,
and is true for a minute. When they were there last is remembered for a day: one that has left by
now may have taken a message. What remains: one that came and went between two questions, and one
that never answered.

    only such consumers            a run is over when it is pushed: `sent`
    some, and workers with hooks   a run is followed; where its message has left the queue and
                                   nobody claimed it, it ends as sent: one of them may have run it
    some when the run was queued   the same, though they have left since
    none since the run was queued  its message was lost, and is pushed again
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from hermes_celery.events import RateLimitedLog, event
from hermes_celery.instant import to_ms
from hermes_celery.store import Fate, ForeignQueue, ForeignQueues, Load
from hermes_celery.store.queue_health import Crew, crew
from hermes_celery.store.queue_load import base_of
from hermes_celery.store.worker_signs import node_of

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.core.job import JobSpec
    from hermes_celery.core.run import Run
    from hermes_celery.store import Database

_log = logging.getLogger(__name__)

_ASK_EVERY_MS = 15_000
#: While nobody at all is known to consume a queue.
_ASK_SOON_MS = 5_000
#: While runs are queued: one of them may be in the hands of a worker that leaves soon.
_ASK_QUEUED_MS = 3_000
#: How long after the first question without an answer they may still have taken something.
_UNSEEN_MS = 10_000
#: How often the thread looks whether there is something to ask.
_LOOK_SECONDS = 3.0
#: How long a run that is to be pushed again waits for an answer; asking that hangs stops nobody.
_PATIENCE_MS = 20_000
#: A worker with our tasks that answers for so long without a sign is no worker of ours.
_STRANGE_MS = 60_000
_MOST_GONE = 10_000
#: Less than a message waits before it is pushed again: what is overdue was pushed before that.
_EMPTY_MS = 30_000
#: How long a queue is remembered after it was seen last.
_FORGET_MS = 86_400_000


def _begin_thread(loop: Callable[[], None]) -> None:
    threading.Thread(target=loop, name="hermes-foreign-workers", daemon=True).start()


class AsksWorkers(Protocol):
    """What asks Celery's workers: `inspecting.Inspection`, or a stand-in."""

    def queues(self) -> Sequence[tuple[str, Collection[str]]]:
        """Each answer: a worker and the queues that it consumes; several may have one name."""

    def with_hooks(self, workers: Collection[str]) -> Collection[str]:
        """Which of some workers have our tasks."""


class _Consumer(msgspec.Struct, frozen=True, kw_only=True):
    """A worker on a queue, named by no sign of ours."""

    worker: str
    queue: str
    #: Whether it is no worker of ours for certain.
    is_sure: bool


class ForeignWorkers:
    """What one leader knows of them. Every method but `look` returns at once."""

    def __init__(
        self,
        database: Database,
        *,
        asking: AsksWorkers,
        clock: Clock,
        key_prefix: str = "",
        begin: Callable[[Callable[[], None]], None] = _begin_thread,
    ) -> None:
        """`database` is this object's own; `key_prefix` stands before each queue's key in Redis.

        `begin` has the loop done that asks.
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
        #: Queues that tasks went to.
        self._task_queues: set[str] = set()
        self._known: Mapping[str, ForeignQueue] = {}
        #: Those whose consumers may be workers of ours that have just started.
        self._suspected: dict[str, ForeignQueue] = {}
        #: Those that have no other consumers now, and why a run there is sent.
        self._only: Mapping[str, str] = {}
        #: When the last question was asked that is answered, and the last one.
        self._heard_ms = 0
        self._asked_ms = 0
        #: By run: since when its message is known to have left its queue.
        self._gone: dict[str, int] = {}
        #: By Redis list: since when all messages are known to have left it that wait long.
        self._empty: dict[str, int] = {}
        #: Workers and queues that no sign of ours names, and since when they answer.
        self._unsigned: Mapping[tuple[str, str], int] = {}

    def begin(self) -> None:
        """Go on with what a leader before this one has stored. Raises StoreError."""
        self._remember()
        if self._task_queues:
            self._want()

    def why_sent(self, spec: JobSpec, queue: str) -> str:
        """Why a run that is pushed to that Redis list now is over; "" where it is followed."""
        if spec.task is None:
            return ""
        name = self._name(queue)
        if name not in self._task_queues:
            self._task_queues.add(name)
            self._want()
        return self._only.get(name, "")

    def fate(self, run: Run, spec: JobSpec, *, queue: str, now_ms: int) -> Fate:
        """What becomes of a run that nobody claimed in time."""
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
        """Why a run may have been taken since it was queued, by whoever has left by now too."""
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
        """Hear that a run's message has left its queue: who took it must be asked before more.

        `empty` is the Redis list, if all others have left it too.
        """
        if len(self._gone) > _MOST_GONE:
            self._gone.clear()
        if empty and now_ms - self._empty.get(empty, 0) > _EMPTY_MS:
            self._empty[empty] = now_ms
        if self._gone.setdefault(run.id, now_ms) == now_ms:
            self._want()

    def _was_asked(self, run: Run, queue: str, *, now_ms: int) -> bool:
        """Whether it was asked who consumes what, since its message was seen to be gone."""
        # Of a run that is overdue, the message was pushed before: of many that are lost at once,
        # the first ones are asked for.
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
        """Why a run whose message has left that Redis list is over; "" where it may be claimed."""
        name = self._name(queue)
        return self._known[name].why_taken if name in self._only else ""

    @property
    def has_any(self) -> bool:
        """Whether any queue is known that only such workers consume."""
        return bool(self._only)

    def look(self, now_ms: int) -> None:
        """Ask if there is reason to, and note what follows. Raises what the asking raises."""
        who = crew(self._database, now_ms=now_ms)
        if not self._has_read:
            self._remember()
        # What is known is true before the answers come, which takes a second or two.
        self._judge(who, now_ms=now_ms)
        if self._wanted.is_set() or self._is_due(who, now_ms):
            self._wanted.clear()
            self._asked_ms = now_ms
            try:
                self._remember_answers(self._foreign(who, now_ms), who, now_ms=now_ms)
            finally:
                # An answer that cannot be had must not keep a lost message back for ever.
                self._heard_ms = now_ms
        self._judge(who, now_ms=now_ms)

    def _is_due(self, who: Crew, now_ms: int) -> bool:
        if now_ms - self._asked_ms >= _ASK_QUEUED_MS and self._is_any_queued():
            return True
        lacking = {name for name in self._task_queues if not who.consumers(name)}
        # When one leaves must be known: what is queued long after that was lost, not taken.
        if not lacking and not self._is_any_there():
            return False
        wait_ms = _ASK_EVERY_MS if lacking <= self._only.keys() else _ASK_SOON_MS
        return now_ms - self._asked_ms >= wait_ms

    def _is_any_there(self) -> bool:
        """Whether one that does not report answered the last question."""
        return any(not one.gone_ms for one in (*self._known.values(), *self._suspected.values()))

    def _is_any_queued(self) -> bool:
        """Whether a run may be in the hands of a worker that does not report."""
        return bool(self._task_queues and Load(self._database).queued())

    def _remember(self) -> None:
        """What a leader before this one stored."""
        stored = {name: one for name, one in self._stored.read().items() if one.is_sure}
        self._known = {**stored, **self._known}
        self._task_queues |= self._known.keys()
        self._has_read = True

    def _foreign(self, who: Crew, now_ms: int) -> list[_Consumer]:
        """Who consumes our tasks' queues and is named by no sign of ours."""
        before = self._unsigned
        found = _unsigned(self._asking.queues(), who, self._task_queues)
        self._unsigned = {one: before.get(one, now_ms) for one in found}
        # A worker that starts answers before it gives its first sign, one that cannot write gives
        # none. Whoever has our tasks and gives no sign for long belongs to another namespace.
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

    def _remember_answers(self, foreign: Sequence[_Consumer], who: Crew, *, now_ms: int) -> None:
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

    def _suspect(self, found: Mapping[str, ForeignQueue], who: Crew, *, now_ms: int) -> None:
        """Note who may be foreign, until it gives a sign of ours."""
        ours = {node_of(name) for name in who.signs}
        for name, one in list(self._suspected.items()):
            if ours.issuperset(one.workers) or now_ms - one.seen_ms > _FORGET_MS:
                del self._suspected[name]
            elif not one.gone_ms:
                self._suspected[name] = msgspec.structs.replace(one, gone_ms=now_ms)
        self._suspected.update({name: one for name, one in found.items() if not one.is_sure})

    def _judge(self, who: Crew, *, now_ms: int) -> None:
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
        """Have the thread ask soon; it begins with the first wish, after any fork."""
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
            except Exception as error:  # noqa: BLE001 - the thread must outlive what it ran into
                if self._complaint.may_say(self._clock.monotonic()):
                    event(_log, "queue.unasked", level=logging.WARNING, why=error)
                pause.wait(_LOOK_SECONDS)
            self._wanted.wait(_LOOK_SECONDS)


def _has_hooks(who: Crew, queue: str) -> bool:
    """Whether a worker that reports consumes a queue, or may: 0.1.0 does not say what it does."""
    return who.has_older or bool(who.consumers(queue))


def _unsigned(
    answers: Sequence[tuple[str, Collection[str]]], who: Crew, queues: Collection[str]
) -> set[tuple[str, str]]:
    """The workers and queues among the answers that no sign of ours explains.

    Two workers on one host have the same name where nobody gave them one; so more answers than
    signs, or a queue that no sign names, are those of another.
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
