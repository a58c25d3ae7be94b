"""Runs that wait for a worker: which are overdue, and pushing their messages, first or again."""

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

#: In a run's field `unpushed`: its first message is still to be pushed, or that of its next
#: attempt. It is '1' where a message of the task's own may be on its way.
_NEVER_PUSHED, _NEXT_ATTEMPT = "new", "next"
#: Behind a backlog of hours a lost message must not wait for hours more.
_LONGEST_WAIT_MS = 600_000


class UndeliveredRun(msgspec.Struct, frozen=True, kw_only=True):
    """A queued run whose message is to be pushed (again)."""

    run: Run
    #: The deadline that passed, Unix ms.
    seen_ms: int
    #: How many of its messages were pushed before this one.
    push: int
    #: Whether the message is meant to be pushed now, and was not yet.
    is_unpushed: bool = False
    #: Whether none of its messages can be on its way to a worker.
    is_unsent: bool = False
    #: How long the message that it goes on with may take, once it has left its queue.
    patience_ms: int = 0
    #: The list that it went to, where that is known.
    handed_queue: str = ""
    #: When that was seen on its queue, after it was awaited for long enough.
    on_queue_ms: int = 0


class WaitingRuns(RunRecords):
    """The runs of one namespace that wait. All times are the server's, Unix milliseconds."""

    def __init__(self, database: Database, *, redeliver_after_ms: int = 60_000) -> None:
        super().__init__(database)
        self._redeliver_after_ms = redeliver_after_ms

    def undelivered_since(self, now_ms: int, *, limit: int) -> list[UndeliveredRun]:
        """Queued runs that no worker took in time.

        One that cannot be read has a `fault`; a deadline that is no number counts as 0.
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
            # No deadline that a script could compare; from the next look on it has one.
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
        """Push a queued run's message (again); waits twice as long until the next time.

        Answers `ok`, `waiting` (its message is on the queue still), `gone` (it is not, and nothing
        was pushed), `empty` (so are all others), `sent` (over, by its `fate`) or `moved` (claimed
        meanwhile). Raises LeaseLost when a younger leader is known.
        """
        next_ms = actor.now_ms + self._next_wait_ms(waiting)
        return self._redeliver(waiting, push, next_ms=next_ms, actor=actor, fate=fate)

    def is_on_queue(self, waiting: UndeliveredRun, *, queue: str, actor: Actor) -> bool:
        """Whether the message that a run goes on with is on its queue; then it is put off.

        Also where that cannot be told, behind a long backlog, or the run is not as it was seen.
        Raises LeaseLost when a younger leader is known.
        """
        push, fate = Push(queue=queue), Fate(looks=True)
        return self.redeliver(waiting, push, actor=actor, fate=fate) not in ("gone", "empty")

    def end_sent(self, waiting: UndeliveredRun, *, queue: str, why: str, actor: Actor) -> bool:
        """End a queued run as sent, if its message was pushed and has left the queue.

        Raises LeaseLost when a younger leader is known.
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
        """Push the message of a run that somebody asked for, for the first time.

        `seen_ms` is its deadline. Answers as `redeliver`.
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
        """Look at a queued run again later, each time after twice the wait, and push nothing."""
        until_ms = now_ms + self._next_wait_ms(waiting)
        self._database.call("ZADD", self._keys.queued, "XX", until_ms, waiting.run.id)

    def _next_wait_ms(self, waiting: UndeliveredRun) -> int:
        waited_ms = waiting.seen_ms - to_ms(waiting.run.queued_at)
        return backoff_since(waited_ms, first=self._redeliver_after_ms, most=_LONGEST_WAIT_MS)


def _next_push(row: Mapping[str, str] | RecordBroken) -> int:
    """How many messages of a run were pushed before the next one; 0 where that cannot be told."""
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
