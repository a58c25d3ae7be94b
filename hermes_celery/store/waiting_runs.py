"""Runs that wait for a worker: find the overdue ones, and push their messages, first or again."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hermes_celery.core.built_message import BuildOutcome, BuiltMessage
from hermes_celery.core.run import MOST_PATIENCE_MS, PATIENCE_SECONDS, Run
from hermes_celery.errors import RecordBroken
from hermes_celery.guards.backoff import backoff_since
from hermes_celery.instant import to_ms
from hermes_celery.store.database import Database, ScriptCall, refuse_fenced, scored, whole
from hermes_celery.store.fencing import Actor
from hermes_celery.store.pushing import FOLLOWED, Fate, Push, PushTimes, push_call
from hermes_celery.store.record_fields import Fields
from hermes_celery.store.run_queries import RunRecords, run_from_fields

#: Values of a run's field `unpushed`: its first message, or the message of its next attempt, is
#: still to be pushed. The value '1' means that a message of the task's own may be on its way.
_NEVER_PUSHED, _NEXT_ATTEMPT = "new", "next"
#: The longest wait: after a backlog of hours a lost message must not wait for further hours.
_LONGEST_WAIT_MS = 600_000


class UndeliveredRun(msgspec.Struct, frozen=True, kw_only=True):
    """A queued run whose message is to be pushed (again)."""

    run: Run
    #: The deadline that passed, Unix ms.
    seen_ms: int
    #: Number of its messages that were pushed before this one.
    push: int
    #: Whether its message is to be pushed for the first time now.
    is_unpushed: bool = False
    #: Whether no message of it can be on its way to a worker.
    is_unsent: bool = False
    #: How long the awaited message of a handed-on run may take after it left its queue, in ms.
    patience_ms: int = 0
    #: The list that the awaited message was pushed to, if known.
    handed_queue: str = ""
    #: When the awaited message was last seen on its queue, after a first wait.
    on_queue_ms: int = 0


class WaitingRuns(RunRecords):
    """Reads and pushes the waiting runs of one namespace.

    All times are the server's, Unix milliseconds.
    """

    def __init__(self, database: Database, *, redeliver_after_ms: int = 60_000) -> None:
        super().__init__(database)
        self._redeliver_after_ms = redeliver_after_ms

    def undelivered_since(self, now_ms: int, *, limit: int) -> list[UndeliveredRun]:
        """Return at most `limit` queued runs whose deadline passed at `now_ms` or earlier.

        An unreadable run has a `fault`; an invalid deadline counts as 0.
        """
        answer = self._database.call(
            "ZRANGEBYSCORE",
            self._keys.queued,
            "-inf",
            now_ms,
            "WITHSCORES",
            "LIMIT",
            0,
            limit,
        )
        overdue = scored(answer)
        endless = [run_id for run_id, score in overdue if score == float("-inf")]
        if endless:
            # Scripts cannot compare -inf; the next call returns these runs with 0.
            ends = (part for run_id in endless for part in (0, run_id))
            self._database.call("ZADD", self._keys.queued, "XX", *ends)
        rows = self._database.hashes([self._keys.run(run_id) for run_id, _ in overdue])
        return [
            UndeliveredRun(
                run=run_from_fields(run_id, fields),
                seen_ms=whole(score),
                push=_next_push(fields),
                is_unpushed=not isinstance(fields, RecordBroken) and "unpushed" in fields,
                is_unsent=_is_unsent(fields),
                patience_ms=_patience_ms(fields),
                handed_queue=Fields(fields).text("handed_queue") or "",
                on_queue_ms=Fields(fields).counted("on_queue_ms") or 0,
            )
            for (run_id, score), fields in zip(overdue, rows, strict=True)
            if fields
        ]

    def redeliver(
        self, waiting: UndeliveredRun, push: Push, *, actor: Actor, fate: Fate = FOLLOWED
    ) -> str:
        """Push a queued run's message (again); the wait until the next push doubles.

        Returns `ok`, `waiting` (its message is still on the queue), `gone` (its message has left
        the queue; nothing was pushed), `empty` (the same, and the queue is empty), `sent` (ended by
        its `fate`) or `moved` (claimed meanwhile). Raises LeaseLost when a younger leader is known.
        """
        next_ms = actor.now_ms + self._next_wait_ms(waiting)
        return self._redeliver(waiting, push, next_ms=next_ms, actor=actor, fate=fate)

    def is_on_queue(self, waiting: UndeliveredRun, *, queue: str, actor: Actor) -> bool:
        """Return whether the awaited message of a run is on its queue; then postpone its deadline.

        Returns True also if that is unknown behind a long backlog, or if the run has changed.
        Raises LeaseLost when a younger leader is known.
        """
        push, fate = Push(queue=queue), Fate(looks=True)
        return self.redeliver(waiting, push, actor=actor, fate=fate) not in ("gone", "empty")

    def end_sent(self, waiting: UndeliveredRun, *, queue: str, why: str, actor: Actor) -> bool:
        """End a queued run as sent, if its message was pushed and has left the queue.

        Returns whether it ended. Raises LeaseLost when a younger leader is known.
        """
        push, fate = Push(queue=queue), Fate(looks=True, when_gone=why)
        next_ms = waiting.seen_ms
        return self._redeliver(waiting, push, next_ms=next_ms, actor=actor, fate=fate) == "sent"

    def _redeliver(
        self, waiting: UndeliveredRun, push: Push, *, next_ms: int, actor: Actor, fate: Fate
    ) -> str:
        times = PushTimes(
            seen_ms=waiting.seen_ms,
            next_ms=next_ms,
            redeliver_at_ms=actor.now_ms + self._redeliver_after_ms,
        )
        call = push_call(self._database, waiting.run.id, push, times=times, actor=actor, fate=fate)
        return self._pushed(call)

    def push_asked(
        self, run_id: str, built: BuiltMessage, *, seen_ms: int, now_ms: int, why_sent: str = ""
    ) -> str:
        """Push the first message of a run that somebody triggered.

        `seen_ms` is its deadline. Returns the words of `redeliver`.
        """
        redeliver_at_ms = now_ms + self._redeliver_after_ms
        times = PushTimes(seen_ms=seen_ms, next_ms=redeliver_at_ms, redeliver_at_ms=redeliver_at_ms)
        fate = Fate(
            when_pushed=built.why_sent or why_sent, is_elsewhere=built.way is not BuildOutcome.PUSH
        )
        push = Push(queue=built.queue, message=built.message)
        actor = Actor(now_ms=now_ms)
        return self._pushed(
            push_call(self._database, run_id, push, times=times, actor=actor, fate=fate)
        )

    def _pushed(self, call: ScriptCall) -> str:
        answer = self._database.run_listed("redeliver", keys=call.keys, args=call.args)
        refuse_fenced(answer)
        return str(answer)

    def put_off(self, waiting: UndeliveredRun, *, now_ms: int) -> None:
        """Postpone a queued run's deadline without a push; the wait doubles each time."""
        until_ms = now_ms + self._next_wait_ms(waiting)
        self._database.call("ZADD", self._keys.queued, "XX", until_ms, waiting.run.id)

    def _next_wait_ms(self, waiting: UndeliveredRun) -> int:
        waited_ms = waiting.seen_ms - to_ms(waiting.run.queued_at)
        return backoff_since(waited_ms, first=self._redeliver_after_ms, most=_LONGEST_WAIT_MS)


def _next_push(row: Mapping[str, str] | RecordBroken) -> int:
    """Return how many messages of a run were pushed before the next one; 0 if unreadable."""
    if isinstance(row, RecordBroken) or row.get("unpushed") == _NEVER_PUSHED:
        return 0
    pushes = row.get("pushes", "")
    return (int(pushes) if pushes.isascii() and pushes.isdigit() and len(pushes) < 10 else 0) + 1


def _patience_ms(row: Mapping[str, str] | RecordBroken) -> int:
    most_ms = int(PATIENCE_SECONDS * 1000)
    found_ms = Fields(row).counted("patience_ms")
    return most_ms if found_ms is None else min(max(found_ms, 0), MOST_PATIENCE_MS)


def _is_unsent(row: Mapping[str, str] | RecordBroken) -> bool:
    return not isinstance(row, RecordBroken) and row.get("unpushed") in (
        _NEVER_PUSHED,
        _NEXT_ATTEMPT,
    )
