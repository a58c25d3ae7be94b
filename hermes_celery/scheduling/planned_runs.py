"""Turn due jobs into steps that can be written: plan each job, with its run and message.

A job that cannot be planned becomes a fault of its own and never stops the others. A message that
cannot be built costs only the occurrence it is for (`deferred_messages.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from hermes_celery.core.built_message import BuiltMessage, is_stand_in
from hermes_celery.core.job import JobSpec
from hermes_celery.core.planning import DueJob, plan
from hermes_celery.core.run import run_id_of
from hermes_celery.errors import error_text
from hermes_celery.store import Advance, BrokenJob


class BuildsMessages(Protocol):
    """Builds messages: a `MessageBuilder`, or a fake in tests without Celery.

    If building a message runs the project's own code, the message is built once, after its run was
    admitted. Until then `message` returns a stand-in, which begins with a space
    (`built_message.STAND_IN`). It also returns one for a message that cannot be built, so that
    building it fails with the run on record.
    """

    def queue(self, spec: JobSpec) -> str:
        """Return the queue of a job's runs, as far as it is known before a message is built."""

    def message(
        self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int = 1, push: int = 0
    ) -> bytes:
        """Return the message of a run, or a stand-in until the run is admitted.

        `push` counts the run's earlier messages.
        """

    def build(
        self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int = 1, push: int = 0
    ) -> BuiltMessage:
        """Build the message of an admitted run. Raises whatever the project's code raises."""

    def runs_again(self, spec: JobSpec) -> bool:
        """Return whether the project wants the job's task to run again when its worker is lost."""


class PreparedSteps(msgspec.Struct, frozen=True, kw_only=True):
    """The steps of some planned jobs, and the faults of the others."""

    steps: list[Advance]
    faults: list[BrokenJob]


#: Milliseconds until a job is read again whose record is unreadable or of a newer version: the
#: record may be repaired by then, or a beat of the newer version may lead.
_AGAIN_MS = 30_000


def prepare(
    rows: Iterable[DueJob | BrokenJob], messages: BuildsMessages, *, now_ms: int, resumed_ms: int
) -> PreparedSteps:
    """Plan jobs that are due at `now_ms` and build their messages."""
    steps: list[Advance] = []
    faults: list[BrokenJob] = []
    for row in rows:
        fault = _not_now(row, now_ms=now_ms)
        if fault is not None or isinstance(row, BrokenJob):
            faults += [fault] if fault else []
            continue
        try:
            steps += steps_of(row, messages, now_ms=now_ms, resumed_ms=resumed_ms)
        except Exception as error:  # noqa: BLE001 - one bad job must not stop the others
            faults.append(_broken(row, error_text(error)))
    return PreparedSteps(steps=steps, faults=faults)


def _not_now(row: DueJob | BrokenJob, *, now_ms: int) -> BrokenJob | None:
    """Return why a job that the due index names is not planned now, or None if it is."""
    if isinstance(row, BrokenJob):
        # Deferred: its record is of a newer version (no fault), cannot hold a fault, or is repaired
        # by the sweep.
        is_left = row.is_newer or row.key
        return msgspec.structs.replace(row, again_ms=now_ms + _AGAIN_MS) if is_left else row
    if row.next_run_ms > now_ms:
        # The job's record decides when the job is due; the index only makes it quick to find.
        return BrokenJob(
            job_id=row.spec.id,
            revision=str(row.revision),
            error=f"the due index listed the job before it was due; moved to {row.next_run_ms}",
            again_ms=row.next_run_ms,
        )
    return None


def steps_of(
    due: DueJob, messages: BuildsMessages, *, now_ms: int, resumed_ms: int
) -> list[Advance]:
    """Return the steps of one job's plan. Raises whatever planning raises."""
    spec = due.spec
    queue = messages.queue(spec)
    steps = []
    for step in plan(due, now_ms=now_ms, resumed_ms=resumed_ms).steps:
        run_id = run_id_of(spec.id, step.occurrence_ms)
        message = messages.message(spec, run_id=run_id, due_ms=step.occurrence_ms)
        is_late = not step.skip and is_stand_in(message)
        steps.append(
            Advance(
                due=due, step=step, run_id=run_id, queue=queue, message=message, is_late=is_late
            )
        )
    return steps


def _broken(due: DueJob, error: str) -> BrokenJob:
    return BrokenJob(job_id=due.spec.id, revision=str(due.revision), error=error)
