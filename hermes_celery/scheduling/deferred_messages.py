"""Build the messages of admitted runs and push them, or end the runs.

These are runs whose message is built after the run was admitted. Building runs the project's own
code. That code may raise (a lock such as celery-once's, a router, an unreachable broker), publish
nothing, or publish by itself. An error costs this run only, never another run or the job's
schedule. If the leader is killed before the push, the run is queued without a message, and the next
pass of rescue builds it. If building takes longer than a tick may wait
(`celery_app.message_time_limit`), rescue asks for the message again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hermes_celery.core.built_message import BuildOutcome, BuiltMessage
from hermes_celery.core.run import RunState
from hermes_celery.errors import StoreError, error_text
from hermes_celery.events import event

if TYPE_CHECKING:
    from hermes_celery.core.job import JobSpec
    from hermes_celery.scheduling.planned_runs import BuildsMessages
    from hermes_celery.store import Advance, DueIndex

_log = logging.getLogger(__name__)
#: Seconds that a tick, or a pass of rescue, lets the project's own code build messages: a fraction
#: of the lease. `celery_app.message_time_limit` bounds a single message.
BUILDING_SECONDS = 0.25
_MOST_ERROR = 1_000
#: Milliseconds until rescue asks again for a message that is still being built.
_AGAIN_MS = 250


def built_or_fault(
    messages: BuildsMessages,
    spec: JobSpec,
    *,
    run_id: str,
    due_ms: int,
    attempt: int = 1,
    push: int = 0,
) -> BuiltMessage:
    """Build a run's message; an error becomes a FAILED outcome with its reason."""
    try:
        return messages.build(spec, run_id=run_id, due_ms=due_ms, attempt=attempt, push=push)
    except Exception as error:  # noqa: BLE001 - the project's code may fail its own run only
        text = error_text(error)
        return BuiltMessage(
            way=BuildOutcome.FAILED, why=f"its message could not be published: {text}"[:_MOST_ERROR]
        )


def build_and_push(
    due_index: DueIndex,
    messages: BuildsMessages,
    admitted: Sequence[Advance],
    *,
    token: int,
    now_ms: int,
) -> None:
    """Build the messages of the runs admitted at `now_ms`, and push them together.

    Rescue pushes what the server refuses. Raises LeaseLost when a newer leader is known, and
    StoreUnavailable.
    """
    pushes, pending = [], []
    for advance in admitted:
        built = built_or_fault(
            messages,
            advance.due.spec,
            run_id=advance.run_id,
            due_ms=advance.step.occurrence_ms,
        )
        if built.way is BuildOutcome.PENDING:
            pending.append(advance.run_id)
        elif built.way in (BuildOutcome.FAILED, BuildOutcome.NOWHERE):
            _end(due_index, advance, built, token=token, now_ms=now_ms)
        else:
            pushes.append((advance, built))
    due_index.look_again(pending, at_ms=now_ms + _AGAIN_MS)
    answers = due_index.push_built(pushes, token=token, now_ms=now_ms)
    for (advance, _), answer in zip(pushes, answers, strict=True):
        if isinstance(answer, StoreError):
            event(_log, "run.push_failed", level=logging.ERROR, run=advance.run_id, why=answer)


def _end(
    due_index: DueIndex, advance: Advance, built: BuiltMessage, *, token: int, now_ms: int
) -> None:
    ending = ending_of(built)
    try:
        due_index.end_late(
            advance.run_id,
            state=ending[0],
            reason=ending[1],
            error=ending[2],
            token=token,
            now_ms=now_ms,
        )
    except StoreError as error:
        # Rescue builds the message again and ends the run then.
        event(_log, "run.end_failed", level=logging.ERROR, run=advance.run_id, why=error)
        return
    log_ended(advance.run_id, built)


def ending_of(built: BuiltMessage) -> tuple[RunState, str, str]:
    """Return the state, reason and error with which a run without a message ends."""
    if built.way is BuildOutcome.FAILED:
        return RunState.FAILED, "", built.why
    return RunState.SKIPPED, built.why, ""


def log_ended(run_id: str, built: BuiltMessage) -> None:
    """Log that a run ended without a message."""
    is_failed = built.way is BuildOutcome.FAILED
    event(
        _log,
        "run.not_published",
        level=logging.ERROR if is_failed else logging.WARNING,
        run=run_id,
        why=built.why,
    )
