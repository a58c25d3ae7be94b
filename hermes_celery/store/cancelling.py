"""Ending a run before its time: one script, called by people, by rescue and by the tick."""

from __future__ import annotations

from hermes_celery.core.run import RunState, job_id_of
from hermes_celery.errors import LeaseLost
from hermes_celery.store.database import Database


def cancel_run(
    database: Database,
    run_id: str,
    *,
    reason: str,
    state: RunState,
    queue: str,
    now_ms: int,
    redeliver_at_ms: int,
    token: int | None = None,
    shard: int = 0,
    error: str = "",
    leaves_running: bool = False,
    attempt: int | None = None,
    hop: int = 0,
) -> str:
    """End a waiting run in `state`, or ask a running one's runner to end it.

    `queue` is where a run that was held behind it goes; `token` is the fencing token of the leader
    of a shard that asks. With an `error` its end is told to people. A run that runs may be left
    alone, and so may one that waits for another message than that of `attempt`, which its own tasks
    had sent on `hop` times. Answers `cancelled`, `asked`, `over` or `gone`. Raises LeaseLost when a
    younger leader's token is known.
    """
    keys, job_id = database.keys, job_id_of(run_id)
    answer = database.run(
        "cancel",
        keys=[
            keys.run(run_id),
            keys.job(job_id),
            keys.active(job_id),
            keys.queued,
            keys.held(job_id),
            database.due_key(job_id),
            keys.completed,
            queue,
            keys.term_of(shard),
            keys.deliveries,
        ],
        args=[
            run_id,
            now_ms,
            reason,
            state.value,
            redeliver_at_ms,
            "" if token is None else token,
            error,
            "leave" if leaves_running else "ask",
            "" if attempt is None else attempt,
            hop,
        ],
    )
    if answer == "fenced":
        raise LeaseLost("a younger leader has taken over; this one stops writing")
    return str(answer)
