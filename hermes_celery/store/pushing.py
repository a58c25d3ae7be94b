"""Pushing the message of a queued run: one script, called by the tick, by rescue and by people."""

from __future__ import annotations

import msgspec

from hermes_celery.core.run import job_id_of
from hermes_celery.store.database import Database, ScriptCall, call_of, or_none
from hermes_celery.store.fencing import Actor


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """What is pushed onto which Celery queue."""

    queue: str
    #: b"": nothing; the run's message is only looked for.
    message: bytes = b""
    #: How many of the run's messages were pushed before this one.
    number: int = 0


class PushTimes(msgspec.Struct, frozen=True, kw_only=True):
    """When a queued run is looked at, Unix ms."""

    #: The deadline that it must have still.
    seen_ms: int
    #: Its next one.
    next_ms: int
    #: The deadline of a run that was held behind it, should it end here.
    redeliver_at_ms: int


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

    @property
    def manner(self) -> str:
        """How a message that may have vanished is pushed again, as `redeliver.lua` takes it."""
        if self.hesitates:
            return "hesitate"
        return "look" if self.looks else ""


FOLLOWED = Fate()


def push_call(
    database: Database, run_id: str, push: Push, *, times: PushTimes, actor: Actor, fate: Fate
) -> ScriptCall:
    """A call of `redeliver.lua`, which says what becomes of the run."""
    keys, job_id = database.keys, job_id_of(run_id)
    return call_of(
        "redeliver",
        keys={
            "term": keys.term_of(actor.shard),
            "run": keys.run(run_id),
            "queued": keys.queued,
            "queue": push.queue or keys.default_queue,
            "job": keys.job(job_id),
            "active": keys.active(job_id),
            "held": keys.held(job_id),
            "due": database.due_key(job_id),
            "completed": keys.completed,
        },
        args={
            "token": or_none(actor.token),
            "run_id": run_id,
            "seen_ms": times.seen_ms,
            "next_ms": times.next_ms,
            "message": push.message,
            "now_ms": actor.now_ms,
            "redeliver_at_ms": times.redeliver_at_ms,
            "manner": fate.manner,
            "when_gone": fate.when_gone,
            "when_pushed": fate.when_pushed,
            "pushes": push.number,
            "is_elsewhere": "1" if fate.is_elsewhere else "",
        },
    )
