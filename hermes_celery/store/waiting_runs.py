"""Runs that wait for a worker: which are overdue, and pushing their messages, first or again."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hermes_celery.core.built_message import BuildOutcome, BuiltMessage
from hermes_celery.core.run import MOST_PATIENCE_MS, PATIENCE_SECONDS, Run
from hermes_celery.errors import LeaseLost, RecordBroken
from hermes_celery.guards.backoff import backoff_since
from hermes_celery.instant import to_ms
from hermes_celery.store.database import Database, scored, whole
from hermes_celery.store.pushing import push_call
from hermes_celery.store.reading import Fields
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


class Fate(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a queued run on whose queue there may be workers that do not report."""

    #: Whether to look for its message on the queue, rather than to push another copy.
    looks: bool = False
    #: Whether to say that it has left the queue, rather than to push it again at once.
    hesitates: bool = False
    #: Why it ends as sent where its message has left the queue; "": it is pushed again.
    when_gone: str = ""
    #: Why it ends as sent where its message is pushed for the first time; "": it waits.
    when_pushed: str = ""
    #: Whether the project's own code has published its message, so that none is pushed.
    is_elsewhere: bool = False


_FOLLOWED = Fate()


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
        self,
        run: Run,
        *,
        seen_ms: int,
        now_ms: int,
        token: int,
        queue: str,
        message: bytes,
        push: int = 0,
        fate: Fate = _FOLLOWED,
    ) -> str:
        """Push a queued run's message (again); waits twice as long until the next time.

        Answers `ok`, `waiting` (its message is on the queue still), `gone` (it is not, and nothing
        was pushed), `empty` (so are all others), `sent` (over, by its `fate`) or `moved` (claimed
        meanwhile). Raises LeaseLost when a younger leader is known.
        """
        return self._redeliver(
            run,
            seen_ms=seen_ms,
            next_ms=now_ms + self._next_wait_ms(run, seen_ms=seen_ms),
            now_ms=now_ms,
            token=token,
            queue=queue,
            message=message,
            push=push,
            fate=fate,
        )

    def is_on_queue(self, waiting: UndeliveredRun, *, now_ms: int, token: int, queue: str) -> bool:
        """Whether the message that a run goes on with is on its queue; then it is put off.

        Also where that cannot be told, behind a long backlog, or the run is not as it was seen.
        Raises LeaseLost when a younger leader is known.
        """
        answer = self.redeliver(
            waiting.run,
            seen_ms=waiting.seen_ms,
            now_ms=now_ms,
            token=token,
            queue=queue,
            message=b"",
            fate=Fate(looks=True),
        )
        return answer not in ("gone", "empty")

    def end_sent(
        self, run: Run, *, seen_ms: int, now_ms: int, token: int, queue: str, why: str
    ) -> bool:
        """End a queued run as sent, if its message was pushed and has left the queue.

        `seen_ms` is its deadline. Raises LeaseLost when a younger leader is known.
        """
        answer = self._redeliver(
            run,
            seen_ms=seen_ms,
            next_ms=seen_ms,
            now_ms=now_ms,
            token=token,
            queue=queue,
            message=b"",
            push=0,
            fate=Fate(looks=True, when_gone=why),
        )
        return answer == "sent"

    def _redeliver(
        self,
        run: Run,
        *,
        seen_ms: int,
        next_ms: int,
        now_ms: int,
        token: int,
        queue: str,
        message: bytes,
        push: int,
        fate: Fate,
    ) -> str:
        call = push_call(
            self._database,
            run.id,
            seen_ms=seen_ms,
            next_ms=next_ms,
            now_ms=now_ms,
            redeliver_at_ms=now_ms + self._redeliver_after_ms,
            token=token,
            queue=queue,
            message=message,
            push=push,
            manner=_manner(fate),
            when_gone=fate.when_gone,
            when_pushed=fate.when_pushed,
            is_elsewhere=fate.is_elsewhere,
        )
        return self._fenced("redeliver", keys=list(call.keys), args=list(call.args))

    def push_asked(
        self, run_id: str, built: BuiltMessage, *, seen_ms: int, now_ms: int, why_sent: str = ""
    ) -> str:
        """Push the message of a run that somebody asked for, for the first time.

        `seen_ms` is its deadline. Answers as `redeliver`.
        """
        redeliver_at_ms = now_ms + self._redeliver_after_ms
        call = push_call(
            self._database,
            run_id,
            seen_ms=seen_ms,
            next_ms=redeliver_at_ms,
            now_ms=now_ms,
            redeliver_at_ms=redeliver_at_ms,
            token=None,
            queue=built.queue,
            message=built.message,
            when_pushed=built.why_sent or why_sent,
            is_elsewhere=built.way is not BuildOutcome.PUSH,
        )
        return str(self._database.run("redeliver", keys=call.keys, args=call.args))

    def put_off(self, waiting: UndeliveredRun, *, now_ms: int) -> None:
        """Look at a queued run again later, each time after twice the wait, and push nothing."""
        until_ms = now_ms + self._next_wait_ms(waiting.run, seen_ms=waiting.seen_ms)
        self._database.call("ZADD", self._keys.queued, "XX", until_ms, waiting.run.id)

    def _next_wait_ms(self, run: Run, *, seen_ms: int) -> int:
        waited_ms = seen_ms - to_ms(run.queued_at)
        return backoff_since(waited_ms, first=self._redeliver_after_ms, most=_LONGEST_WAIT_MS)

    def _fenced(self, script: str, *, keys: list[str], args: list[str | int | bytes]) -> str:
        answer = self._database.run(script, keys=keys, args=args)
        if answer == "fenced":
            raise LeaseLost("a younger leader has taken over; this one stops writing")
        return str(answer)


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


def _manner(fate: Fate) -> str:
    """How a message that may have vanished is pushed again."""
    if fate.hesitates:
        return "hesitate"
    return "look" if fate.looks else ""


def _is_unsent(row: Mapping[str, str] | RecordBroken) -> bool:
    return not isinstance(row, RecordBroken) and row.get("unpushed") in (
        _NEVER_PUSHED,
        _NEXT_ATTEMPT,
    )
