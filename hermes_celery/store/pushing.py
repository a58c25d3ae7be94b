"""Push the message of a queued run: one script, called by the tick, by rescue and by people."""

from __future__ import annotations

import msgspec

from hermes_celery.core.run import job_id_of
from hermes_celery.store.database import Database, ScriptCall, call_of, or_none
from hermes_celery.store.fencing import Actor


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """A message and its Celery queue."""

    queue: str
    #: b"" to push nothing and only search the queue for the run's message.
    message: bytes = b""
    #: Number of messages of the run that were pushed before this one.
    number: int = 0


class PushTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Deadlines of a queued run, Unix ms."""

    #: The expected current deadline; with another one nothing changes.
    seen_ms: int
    #: The next deadline.
    next_ms: int
    #: The deadline of the held run that is pushed next, if this run ends here.
    redeliver_at_ms: int


class Fate(msgspec.Struct, frozen=True, kw_only=True):
    """Rules for a queued run when workers that do not report may consume its queue."""

    #: Whether to search the queue for its message before another copy is pushed.
    looks: bool = False
    #: Whether only to report that the message has left the queue, instead of pushing again.
    hesitates: bool = False
    #: The reason with which it ends as sent if its message has left the queue; "" to push again.
    when_gone: str = ""
    #: The reason with which it ends as sent after its first push; "" to wait for a worker.
    when_pushed: str = ""
    #: Whether the project's own code has published the message, so that none is pushed.
    is_elsewhere: bool = False

    @property
    def manner(self) -> str:
        """The argument of `redeliver.lua` for a message that may be lost."""
        if self.hesitates:
            return "hesitate"
        return "look" if self.looks else ""


FOLLOWED = Fate()


def push_call(
    database: Database, run_id: str, push: Push, *, times: PushTimes, actor: Actor, fate: Fate
) -> ScriptCall:
    """Return a call of `redeliver.lua`; its answer says what happened to the run."""
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
