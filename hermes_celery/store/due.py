"""What a tick does to the store: read what is due, and advance it in batches."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from hermes_celery.errors import LeaseLost, StoreError
from hermes_celery.job import JobSpec
from hermes_celery.planning import DueJob, Step
from hermes_celery.run import RunState
from hermes_celery.store.cancelling import cancel_run
from hermes_celery.store.database import Database, scored
from hermes_celery.store.jobs import spec_from_json


class Answer(StrEnum):
    """What became of one step of a plan."""

    OK = "ok"
    #: Recorded; its message is pushed when the run before it ends.
    HELD = "held"
    #: Recorded as skipped: as many runs of the job as may be are queued or running.
    OVERLAP = "overlap"
    #: Recorded as skipped, for the reason that the plan gave.
    SKIPPED = "skipped"
    #: The job was edited or removed since it was read; the next tick looks again.
    MOVED = "moved"
    #: The occurrence has its run already; the schedule moved on.
    RAN = "ran"


class Advance(msgspec.Struct, frozen=True, kw_only=True):
    """One step together with its run and message, ready to be written."""

    due: DueJob
    step: Step
    run_id: str
    queue: str
    message: bytes


class Switch(msgspec.Struct, frozen=True, kw_only=True):
    """Whether everything is paused; instants are Unix milliseconds."""

    paused_ms: int | None = None
    note: str = ""
    #: When the last pause of everything ended.
    resumed_ms: int = 0


class BrokenJob(msgspec.Struct, frozen=True, kw_only=True):
    """A due job that cannot be read."""

    job_id: str
    #: As it was read; "" where there was none.
    revision: str = ""
    error: str


class DueIndex:
    """When which job is due, in one namespace."""

    def __init__(self, database: Database, *, redeliver_after_ms: int = 60_000) -> None:
        self._database = database
        self._keys = database.keys
        self._redeliver_after_ms = redeliver_after_ms

    def next_due_ms(self) -> int | None:
        """The earliest instant that any job is due, Unix ms; None when no job is scheduled."""
        first = self._database.call("ZRANGE", self._keys.due, 0, 0, "WITHSCORES")
        return int(scored(first)[0][1]) if first else None

    def due(self, now_ms: int, *, limit: int) -> list[DueJob | BrokenJob]:
        """Up to `limit` jobs whose next_run_at is `now_ms` or earlier, earliest first."""
        keys = self._keys
        ids = self._database.call("ZRANGEBYSCORE", keys.due, "-inf", now_ms, "LIMIT", 0, limit)
        if not ids:
            return []
        rows = self._database.hashes(
            [keys.job(job_id) for job_id in ids], "spec", "revision", "next_ms", "completed"
        )
        return [_due_job(job_id, fields) for job_id, fields in zip(ids, rows, strict=True)]

    def advance(self, batch: Sequence[Advance], *, token: int, now_ms: int) -> list[Answer]:
        """Write a batch, all in one atomic step, and return one answer for each.

        Raises LeaseLost when a younger leader's token is known; then nothing was written.
        """
        keys = self._keys
        script_keys = [
            keys.term,
            keys.due,
            keys.queued,
            keys.runs,
            keys.job_runs,
            keys.completed,
            keys.grown,
        ]
        args: list[str | int | bytes] = [
            token,
            now_ms,
            now_ms + self._redeliver_after_ms,
            len(batch),
            keys.default_queue,
        ]
        for advance in batch:
            spec, step = advance.due.spec, advance.step
            script_keys += (
                keys.job(spec.id),
                keys.run(advance.run_id),
                keys.active(spec.id),
                keys.held(spec.id),
                advance.queue,
            )
            expires = spec.policy.expires_seconds
            args += (
                spec.id,
                advance.due.revision,
                step.seen_ms,
                _or_empty(step.next_run_ms),
                _or_empty(step.next_if_skipped_ms),
                advance.run_id,
                step.occurrence_ms,
                spec.name,
                advance.message,
                spec.policy.most_active,
                spec.policy.most_held,
                "" if expires is None else step.occurrence_ms + expires * 1000,
                step.skip,
            )
        answers = self._database.run("advance", keys=script_keys, args=args)
        if answers == ["fenced"]:
            raise LeaseLost("a younger leader has taken over; this one stops writing")
        return [Answer(word) for word in answers]

    def make_room(self, spec: JobSpec, *, run_id: str, queue: str, token: int, now_ms: int) -> None:
        """Cancel the job's active and held runs, because a later one replaces them.

        Raises LeaseLost when a younger leader's token is known.
        """
        keys = self._keys
        held = self._database.call("LRANGE", keys.held(spec.id), 0, -1)
        active = self._database.call("HKEYS", keys.active(spec.id))
        for old in [*(entry.partition("\0")[0] for entry in held), *active]:
            if old != run_id:
                cancel_run(
                    self._database,
                    old,
                    reason=f"replaced by {run_id}",
                    state=RunState.CANCELLED,
                    queue=queue,
                    now_ms=now_ms,
                    redeliver_at_ms=now_ms + self._redeliver_after_ms,
                    token=token,
                )

    def switch(self) -> Switch:
        """Whether everything is paused."""
        (fields,) = self._database.hashes([self._keys.switch])
        paused = fields.get("paused_ms")
        return Switch(
            paused_ms=int(paused) if paused else None,
            note=fields.get("note", ""),
            resumed_ms=int(fields.get("resumed_ms", 0)),
        )

    def pause_all(self, *, note: str, now_ms: int) -> None:
        """Let no beat dispatch anything until `resume_all`."""
        self._database.call("HSET", self._keys.switch, "paused_ms", now_ms, "note", note)

    def resume_all(self, *, now_ms: int) -> None:
        """Let the beats go on from now; what was missed since the pause is skipped."""
        with_values = ("resumed_ms", now_ms, "paused_ms", "", "note", "")
        self._database.call("HSET", self._keys.switch, *with_values)
        self._database.call("PUBLISH", self._keys.wake, "switch")

    def fault(self, job: BrokenJob, *, token: int) -> None:
        """Take a job that cannot be planned off the schedule and record why.

        Unless it was changed since it was read. Raises LeaseLost when a younger leader's token is
        known.
        """
        keys = self._keys
        answer = self._database.run(
            "fault",
            keys=[keys.term, keys.job(job.job_id), keys.due],
            args=[token, job.job_id, job.revision, job.error],
        )
        if answer == "fenced":
            raise LeaseLost("a younger leader has taken over; this one stops writing")


def _due_job(job_id: str, fields: dict[str, str]) -> DueJob | BrokenJob:
    try:
        return DueJob(
            spec=spec_from_json(job_id, fields.get("spec", "")),
            revision=int(fields["revision"]),
            next_run_ms=int(fields["next_ms"]),
            completed=int(fields.get("completed", 0)),
        )
    except (StoreError, KeyError, ValueError) as error:
        revision = fields.get("revision", "")
        return BrokenJob(job_id=job_id, revision=revision, error=str(error) or repr(error))


def _or_empty(ms: int | None) -> str | int:
    return "" if ms is None else ms
