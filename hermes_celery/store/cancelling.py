"""Ending a run before its time: one script, called by people, by rescue and by the tick."""

from __future__ import annotations

from hermes_celery.run import RunState, job_id_of
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
) -> str:
    """End a waiting run in `state`, or ask a running one's runner to end it.

    `queue` is where a run that was held behind it goes. Answers `cancelled`, `asked`, `over` or
    `gone`.
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
            keys.due,
            keys.completed,
            queue,
        ],
        args=[run_id, now_ms, reason, state.value, redeliver_at_ms],
    )
    return str(answer)
