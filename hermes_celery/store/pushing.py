"""Pushing the message of a queued run: one script, called by the tick, by rescue and by people."""

from __future__ import annotations

from hermes_celery.core.run import job_id_of
from hermes_celery.store.database import Database, ScriptCall


def push_call(
    database: Database,
    run_id: str,
    *,
    seen_ms: int,
    next_ms: int,
    now_ms: int,
    redeliver_at_ms: int,
    token: int | None,
    queue: str,
    message: bytes,
    push: int = 0,
    manner: str = "",
    when_gone: str = "",
    when_pushed: str = "",
    is_elsewhere: bool = False,
    term: str = "",
) -> ScriptCall:
    """A call of `redeliver.lua`, which says what each of these means.

    `seen_ms` is the deadline that it must have still, `next_ms` its next one. `token` is that of
    the leader of the shard whose `term` counter is given; None: a person asks.
    """
    keys, job_id = database.keys, job_id_of(run_id)
    return ScriptCall(
        keys=[
            term or keys.term,
            keys.run(run_id),
            keys.queued,
            queue or keys.default_queue,
            keys.job(job_id),
            keys.active(job_id),
            keys.held(job_id),
            database.due_key(job_id),
            keys.completed,
        ],
        args=[
            "" if token is None else token,
            run_id,
            seen_ms,
            next_ms,
            message,
            now_ms,
            redeliver_at_ms,
            manner,
            when_gone,
            when_pushed,
            push,
            "1" if is_elsewhere else "",
        ],
    )
