"""Read the due jobs from the due index, and advance them in batches, for a tick."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from hermes_celery.core.built_message import BuildOutcome, BuiltMessage
from hermes_celery.core.job import JobSpec
from hermes_celery.core.planning import DueJob, PlannedStep
from hermes_celery.core.readable import readable
from hermes_celery.core.run import EndReason, RunState
from hermes_celery.core.untold_jobs import UntoldJob
from hermes_celery.errors import RecordBroken, StoreError
from hermes_celery.instant import to_ms
from hermes_celery.store.database import (
    Arg,
    Database,
    broken,
    is_broken,
    refuse_fenced,
    scored,
    whole,
)
from hermes_celery.store.end_run import EarlyEnd, cancel_run
from hermes_celery.store.fencing import Actor
from hermes_celery.store.job_records import NewerRecord, spec_from_json
from hermes_celery.store.keys import Keys
from hermes_celery.store.pushing import Fate, Push, PushTimes, push_call
from hermes_celery.store.queue_load import note_queues
from hermes_celery.store.record_fields import Fields
from hermes_celery.store.shards import move_to_own_shard


class StepAnswer(StrEnum):
    """The outcome of one planned step."""

    OK = "ok"
    #: Recorded; its message is pushed when the previous run ends.
    HELD = "held"
    #: Recorded as skipped: the job already has its maximum of queued and running runs.
    OVERLAP = "overlap"
    #: Recorded as skipped, for the reason in the plan.
    SKIPPED = "skipped"
    #: The job was edited or removed since it was read; the next tick reads it again.
    MOVED = "moved"
    #: The occurrence already has its run; the schedule was advanced.
    RAN = "ran"


#: The outcome of a step; RecordBroken when one of its keys is broken: then nothing changed for it.
Advanced = StepAnswer | RecordBroken
#: The leader builds and pushes a late message within the same tick. If it has not done so after
#: this time, rescue does it.
LATE_MS = 2_000
#: The year 9999; a later score means never.
_NEVER_MS = 253_370_764_800_000
_ANSWERS = {answer.value: answer for answer in StepAnswer}
_encode = msgspec.json.Encoder().encode


class Advance(msgspec.Struct, frozen=True, kw_only=True):
    """One planned step with its run and message, ready to be written."""

    due: DueJob
    step: PlannedStep
    run_id: str
    queue: str
    #: A placeholder when `is_late`.
    message: bytes
    #: Whether the message is built only after the step was written.
    is_late: bool = False


class PauseSwitch(msgspec.Struct, frozen=True, kw_only=True):
    """The switch that pauses all jobs; instants are Unix milliseconds."""

    paused_ms: int | None = None
    note: str = ""
    #: When the last pause of all jobs ended.
    resumed_ms: int = 0
    #: Why the switch is unreadable; an unreadable switch pauses nothing.
    fault: RecordBroken | None = None


class BrokenJob(msgspec.Struct, frozen=True, kw_only=True):
    """A due job that cannot be read, planned or dispatched."""

    job_id: str
    #: The revision that was read; "" when it has none.
    revision: str = ""
    error: str
    #: The broken key, which the sweep may repair; "" when the job's definition is at fault.
    key: str = ""
    #: When to check it again, Unix ms, without a change to the job: the job is not at fault.
    again_ms: int | None = None
    #: Whether a newer version wrote it and can read it.
    is_newer: bool = False
    #: Whether only its entry in the index is left.
    is_gone: bool = False


class DueIndex:
    """One shard of a namespace's due index: jobs, scored by their next_run_at."""

    def __init__(
        self,
        database: Database,
        *,
        shard: int = 0,
        redeliver_after_ms: int = 60_000,
        why_sent: Callable[[JobSpec, str], str] = lambda spec, queue: "",
    ) -> None:
        """Take the shard to work on.

        `why_sent` returns, for a job and a queue, the reason why its runs end as `sent` when they
        are pushed; "" when workers report them.
        """
        self._why_sent = why_sent
        self._database = database
        self._keys = database.keys
        self._shard = shard
        self._key = database.keys.due_of(shard)
        self._term = database.keys.term_of(shard)
        self._redeliver_after_ms = redeliver_after_ms

    def next_due_ms(self) -> int | None:
        """Return the earliest next_run_at of all jobs, Unix ms; None when no job is scheduled."""
        first = scored(self._database.call("ZRANGE", self._key, 0, 0, "WITHSCORES"))
        # `inf` is never due, so it is not returned; `-inf` is always due and becomes 0.
        return whole(first[0][1]) if first and first[0][1] < _NEVER_MS else None

    def due_ids(self, until_ms: int, *, limit: int, after_ms: int | None = None) -> list[str]:
        """Return at most `limit` jobs whose next_run_at is `until_ms` or earlier, earliest first.

        With `after_ms`, return only jobs due later than that.
        """
        first = "-inf" if after_ms is None else f"({after_ms}"
        ids = self._database.call("ZRANGEBYSCORE", self._key, first, until_ms, "LIMIT", 0, limit)
        return move_to_own_shard(
            self._database, ids, shard=self._shard, shards=self._database.shards
        )

    def begin_read(self, ids: Sequence[str]) -> Callable[[], list[DueJob | BrokenJob]]:
        """Request what a tick needs of some jobs; return a function that waits for the answer."""
        keys = [self._keys.job(job_id) for job_id in ids]
        answer = self._database.begin("read_due", keys=keys, args=[])

        def rows() -> list[DueJob | BrokenJob]:
            values = answer()
            return [
                _due_job(job_id, key, *values[i * 4 : i * 4 + 4])
                for i, (job_id, key) in enumerate(zip(ids, keys, strict=True))
            ]

        return rows

    def due(self, now_ms: int, *, limit: int) -> list[DueJob | BrokenJob]:
        """Return at most `limit` jobs whose next_run_at is `now_ms` or earlier, earliest first."""
        ids = self.due_ids(now_ms, limit=limit)
        return self.begin_read(ids)() if ids else []

    def begin_advance(
        self, batch: Sequence[Advance], *, token: int, now_ms: int
    ) -> Callable[[], list[Advanced]]:
        """Send a batch, to be written in one atomic step; return a function that awaits the answer.

        That function returns one answer for each step. It raises LeaseLost when a younger leader's
        token is known, and RecordBroken when an index that all steps need is broken; then nothing
        was written.
        """
        keys = self._keys
        packed = _Packed(keys, why_sent=self._why_sent, late_ms=now_ms + LATE_MS)
        for advance in batch:
            packed.add(advance)
        note_queues(self._database, {advance.queue for advance in batch})
        head = [self._term, self._key, keys.queued, keys.runs, keys.job_runs, keys.completed,
                keys.grown, *packed.queues]  # fmt: skip
        answer = self._database.begin(
            "advance",
            keys=head + packed.keys,
            args=[
                token,
                now_ms,
                now_ms + self._redeliver_after_ms,
                len(batch),
                len(packed.queues),
                *packed.args,
            ],
        )

        def answers() -> list[Advanced]:
            words = answer()
            refuse_fenced(words[0] if words else None)
            return [broken(word) if is_broken(word) else _ANSWERS[word] for word in words]

        return answers

    def advance(self, batch: Sequence[Advance], *, token: int, now_ms: int) -> list[Advanced]:
        """Write a batch in one atomic step and return one answer for each.

        Raises LeaseLost and RecordBroken, as the function that `begin_advance` returns.
        """
        return self.begin_advance(batch, token=token, now_ms=now_ms)()

    def push_built(
        self, pushes: Sequence[tuple[Advance, BuiltMessage]], *, token: int, now_ms: int
    ) -> list[str | StoreError]:
        """Push the messages of late steps that were taken at `now_ms`, in one round trip.

        Returns for each `ok`, `sent` (the run has ended, since no worker reports it), `moved`
        (claimed or pushed meanwhile), or the server's refusal. Raises LeaseLost when a younger
        leader's token is known.
        """
        note_queues(self._database, {built.queue for _, built in pushes if built.queue})
        redeliver_at_ms = now_ms + self._redeliver_after_ms
        times = PushTimes(
            seen_ms=now_ms + LATE_MS, next_ms=redeliver_at_ms, redeliver_at_ms=redeliver_at_ms
        )
        actor = Actor(now_ms=now_ms, token=token, shard=self._shard)
        calls = [
            push_call(
                self._database,
                advance.run_id,
                Push(queue=built.queue, message=built.message),
                times=times,
                actor=actor,
                fate=Fate(
                    when_pushed=built.why_sent or self._why_sent(advance.due.spec, built.queue),
                    is_elsewhere=built.way is not BuildOutcome.PUSH,
                ),
            )
            for advance, built in pushes
        ]
        answers = self._database.run_many("redeliver", calls)
        refuse_fenced(answers)
        return answers

    def look_again(self, run_ids: Sequence[str], *, at_ms: int) -> None:
        """Let rescue check these queued runs at `at_ms`. Raises StoreUnavailable."""
        if run_ids:
            ends = (part for run_id in run_ids for part in (at_ms, run_id))
            self._database.call("ZADD", self._keys.queued, "XX", *ends)

    def end_late(
        self, run_id: str, *, state: RunState, reason: str, error: str, token: int, now_ms: int
    ) -> None:
        """End a queued run whose message was never built; notify people if there is an `error`.

        Raises LeaseLost when a younger leader's token is known.
        """
        cancel_run(
            self._database,
            run_id,
            EarlyEnd(state=state, reason=reason, error=error, leaves_running=True),
            actor=Actor(now_ms=now_ms, token=token, shard=self._shard),
            queue=self._keys.default_queue,
            redeliver_at_ms=now_ms + self._redeliver_after_ms,
        )

    def defer(self, ids: Sequence[str], *, until_ms: int, token: int, now_ms: int) -> None:
        """Make due jobs due again at `until_ms`, because they cannot be dispatched now.

        Raises LeaseLost when a younger leader's token is known.
        """
        self._database.run_fenced(
            "defer",
            keys={"term": self._term, "due": self._key},
            args={"token": token, "now_ms": now_ms, "until_ms": until_ms},
            more_args=ids,
        )

    def make_room(self, spec: JobSpec, *, run_id: str, queue: str, token: int, now_ms: int) -> None:
        """Cancel the job's active and held runs, because run `run_id` replaces them.

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
                    EarlyEnd(state=RunState.CANCELLED, reason=f"{EndReason.REPLACED} by {run_id}"),
                    actor=Actor(now_ms=now_ms, token=token, shard=self._shard),
                    queue=queue,
                    redeliver_at_ms=now_ms + self._redeliver_after_ms,
                )

    def switch(self) -> PauseSwitch:
        """Return the pause switch. An unreadable switch pauses nothing and has a `fault`."""
        (row,) = self._database.hashes([self._keys.switch])
        fields = Fields(row)
        switch = PauseSwitch(
            paused_ms=_ms(fields.instant("paused_ms")),
            note=fields.text("note") or "",
            resumed_ms=_ms(fields.instant("resumed_ms")) or 0,
        )
        if fields.fault is None:
            return switch
        fault = RecordBroken(self._keys.switch, f"{fields.fault}; so nothing is paused")
        return msgspec.structs.replace(switch, fault=fault)

    def pause_all(self, *, note: str, now_ms: int) -> bool:
        """Pause all jobs until `resume_all`; return False if they were paused already.

        An earlier pause continues; a new note replaces its note.
        """
        return self._set_switch("pause", now_ms=now_ms, note=note)

    def resume_all(self, *, now_ms: int) -> bool:
        """Resume all jobs from now; occurrences missed during the pause are skipped.

        Returns False, and changes nothing, if nothing was paused.
        """
        has_changed = self._set_switch("resume", now_ms=now_ms)
        self._database.call("PUBLISH", self._keys.wake, "switch")
        return has_changed

    def _set_switch(self, way: str, *, now_ms: int, note: str = "") -> bool:
        answer = self._database.run(
            "switch",
            keys={"switch": self._keys.switch},
            args={"way": way, "now_ms": now_ms, "note": note},
        )
        return bool(answer == "ok")

    def fault(self, job: BrokenJob, *, token: int) -> None:
        """Take an unplannable job off the schedule, and leave a note for an incident.

        A job that was changed since it was read stays as it is. Raises LeaseLost when a younger
        leader's token is known.
        """
        keys = self._keys
        text = f"job {job.job_id} was taken off the schedule: {job.error}"
        note = UntoldJob(job_id=job.job_id, text=readable(text), is_gone=False)
        self._database.run_fenced(
            "fault",
            keys={
                "term": self._term,
                "job": keys.job(job.job_id),
                "due": self._key,
                "sweep": keys.sweep,
            },
            args={
                "token": token,
                "job_id": job.job_id,
                "revision": job.revision,
                "error": job.error,
                "field": note.field,
                "note": note.as_text(),
            },
        )


class _Packed:
    """A batch as keys and arguments of `advance.lua`."""

    def __init__(
        self, keys: Keys, *, why_sent: Callable[[JobSpec, str], str], late_ms: int
    ) -> None:
        self._keys = keys
        self._late_ms = late_ms
        self._why_sent = why_sent
        self.keys: list[str] = []
        self.args: list[Arg] = []
        #: The position of each Celery queue among the keys, from 1.
        self.queues = {keys.default_queue: 1}

    def add(self, advance: Advance) -> None:
        """Append one step."""
        spec, step, run_id, keys = advance.due.spec, advance.step, advance.run_id, self._keys
        self.keys += (keys.job(spec.id), keys.run(run_id), keys.active(spec.id))
        choices = self._choices(advance)
        if "held" in choices:
            self.keys.append(keys.held(spec.id))
        self.args += (
            advance.due.revision,
            step.seen_ms,
            _or_empty(step.next_run_ms),
            run_id,
            spec.name,
            advance.message,
            _encode(choices) if choices else "",
        )

    def _choices(self, advance: Advance) -> dict[str, str]:
        """Return the options in which this step differs from the defaults; most steps have none."""
        step, policy = advance.step, advance.due.spec.policy
        choices: dict[str, str] = {}
        if advance.queue != self._keys.default_queue:
            number = self.queues.setdefault(advance.queue, len(self.queues) + 1)
            choices["queue"] = str(number)
        if policy.most_active != 1:
            choices["active"] = str(policy.most_active)
        if policy.most_held:
            choices["held"] = str(policy.most_held)
        if policy.expires_seconds is not None:
            choices["expires"] = str(step.occurrence_ms + policy.expires_seconds * 1000)
        if step.skip:
            choices["skip"] = step.skip
        if advance.is_late or advance.due.spec.task is not None:
            choices |= self._publishing(advance)
        if step.next_if_skipped_ms != step.next_run_ms:
            choices["skipped"] = str(_or_empty(step.next_if_skipped_ms))
        return choices

    def _publishing(self, advance: Advance) -> dict[str, str]:
        """Return the options about how its message is published."""
        if advance.is_late:
            return {"late": str(self._late_ms)}
        why = self._why_sent(advance.due.spec, advance.queue)
        return {"sent": why} if why else {}


def _due_job(
    job_id: str,
    key: str,
    spec: str | None,
    revision: str | None,
    next_ms: str | None,
    completed: str | None,
) -> DueJob | BrokenJob:
    if spec == "broken" and not revision:
        return BrokenJob(job_id=job_id, error=f"{key} {next_ms}", key=key)
    if spec is None and revision is None and next_ms is None:
        return BrokenJob(job_id=job_id, error="there is no such job", is_gone=True)
    try:
        return DueJob(
            spec=spec_from_json(job_id, spec or "", key=key),
            revision=int(revision or ""),
            next_run_ms=int(next_ms or ""),
            completed=int(completed or 0),
        )
    except NewerRecord as error:
        return BrokenJob(
            job_id=job_id, revision=revision or "", error=f"{key} {error.what}", is_newer=True
        )
    except RecordBroken as error:
        return BrokenJob(job_id=job_id, revision=revision or "", error=f"{error.key} {error.what}")
    except ValueError as error:
        # The sweep repairs such a number and plans the job again.
        what = f"{key} has an invalid number ({readable(str(error))})"
        return BrokenJob(job_id=job_id, revision=revision or "", error=what, key=key)


def _ms(instant: datetime | None) -> int | None:
    return None if instant is None else to_ms(instant)


def _or_empty(ms: int | None) -> str | int:
    return "" if ms is None else ms
