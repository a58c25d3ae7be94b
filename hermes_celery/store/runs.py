"""What happens to a run: trigger, claim, heartbeat, finish, put back, cancel, lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from hermes_celery.core.job import JobSpec
from hermes_celery.core.output import PrintedPiece
from hermes_celery.core.run import DeliveryState, Outcome, RunState, Trigger, due_ms_of, job_id_of
from hermes_celery.errors import JobNotFound, RecordBroken, RunNotFound
from hermes_celery.store.cancelling import cancel_run
from hermes_celery.store.database import Database
from hermes_celery.store.jobs import spec_from_json
from hermes_celery.store.load import note_queues
from hermes_celery.store.reading import Fields
from hermes_celery.store.specs import NewerRecord
from hermes_celery.store.waiting_runs import WaitingRuns

#: How long a trigger's idempotency key is remembered.
_TRIGGER_KEY_SECONDS = 86_400
#: The last arguments of `put_back.lua`.
_NOT_HANDED_ON = ("", 0, "", 0, "")


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's right to perform one run."""

    run_id: str
    token: str
    spec: JobSpec
    attempt: int
    due_ms: int
    #: Where the job's next run goes that this one holds back.
    queue: str

    @property
    def group(self) -> str:
        """Whose runs are counted together: the job's group, or the job itself."""
        return self.spec.group or self.spec.id


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Whose a run is, as far as its record says so."""

    worker: str = ""
    #: The claim that is worth something now.
    claim: str = ""
    #: The claim that recorded an end.
    finished_by: str = ""


class FollowUp(msgspec.Struct, frozen=True, kw_only=True):
    """What the end of a run brings along."""

    delivery: DeliveryState
    #: Where the delivery's message goes, and the message; b"" for none.
    queue: str
    message: bytes = b""
    #: Whether it is pushed in any case, or only if the job has incidents that may be over.
    is_needed: bool = False


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A run that somebody asks for by hand."""

    run_id: str
    message: bytes
    #: When its message is pushed, Unix ms; None: at once.
    push_at_ms: int | None = None
    #: Pushed when the active runs of its job have ended, one after the other.
    held: bool = False


class Performed(msgspec.Struct, frozen=True, kw_only=True):
    """Which of a run's messages was performed last."""

    state: RunState
    #: Its Celery id.
    message: str
    #: How often the run's own tasks had sent it on.
    hop: int


class Runs(WaitingRuns):
    """The runs of one namespace. All times are the server's, Unix milliseconds."""

    def __init__(
        self,
        database: Database,
        *,
        redeliver_after_ms: int = 60_000,
        heartbeat_timeout_ms: int = 15_000,
    ) -> None:
        super().__init__(database, redeliver_after_ms=redeliver_after_ms)
        self._heartbeat_timeout_ms = heartbeat_timeout_ms

    def trigger(
        self,
        spec: JobSpec,
        asked: Sequence[Asked],
        *,
        trigger: Trigger,
        now_ms: int,
        queue: str,
        key: str,
        why_sent: str = "",
    ) -> list[str]:
        """Record runs that somebody asked for, and push them when each wants to be pushed.

        With `why_sent`, those that are pushed at once end as sent, for that reason.
        Returns the ids of those that were made; an occurrence with a record is left out, and the
        same `key` within a day gives the run that it gave before. Raises JobNotFound when the job
        was removed meanwhile.
        """
        note_queues(self._database, [queue])
        keys = self._keys
        script_keys = [
            keys.job(spec.id),
            keys.active(spec.id),
            keys.held(spec.id),
            queue,
            keys.queued,
            keys.runs,
            keys.job_runs,
            keys.grown,
            keys.idempotency(key),
            *(keys.run(one.run_id) for one in asked),
        ]
        args: list[str | int | bytes] = [
            spec.id,
            spec.name,
            now_ms,
            now_ms + self._redeliver_after_ms,
            _TRIGGER_KEY_SECONDS,
            trigger.value,
            keys.default_queue,
            why_sent,
        ]
        for one in asked:
            push_at = "held" if one.held else one.push_at_ms
            args += (one.run_id, one.message, "" if push_at is None else push_at)
        word, *made = self._database.run("trigger", keys=script_keys, args=args)
        if word == "gone":
            raise JobNotFound(spec.id)
        return [str(run_id) for run_id in made]

    def claim(
        self,
        run_id: str,
        *,
        token: str,
        now_ms: int,
        worker: str,
        message: str = "",
        hop: int = 0,
    ) -> Claim | str:
        """Take the right to perform a run, or say in one word why not.

        `message` is the Celery id of the message that asks, and `hop` how often the run's own tasks
        have sent it on: a run that was handed on goes on with one message only.

        The words: `taken` (performed already or by somebody else), `sent` (published and over for
        the store; whoever hears this executes the task and reports nothing), `removed` (its job is
        gone; the run is recorded as cancelled), `expired` (too late; recorded as skipped), `gone`
        (no such run), `failed` (its job's definition cannot be read; recorded with that error),
        `newer` (only newer programs can read its job: it waits for one of their workers).

        Raises RecordBroken.
        """
        keys = self._keys
        answer = self._database.run(
            "claim",
            keys=[
                keys.run(run_id),
                keys.job(job_id_of(run_id)),
                keys.active(job_id_of(run_id)),
                keys.queued,
                keys.heartbeats,
                keys.output(run_id),
                keys.stderr(run_id),
            ],
            args=[token, now_ms, now_ms + self._heartbeat_timeout_ms, worker, run_id, message, hop],
        )
        if answer[0] == "expired":
            self.expire(run_id, now_ms=now_ms)
        elif answer[0] == "removed":
            self.cancel(run_id, reason="the job was removed", now_ms=now_ms)
        if answer[0] != "ok":
            return str(answer[0])
        queue = answer[3] or self._keys.default_queue
        try:
            spec = spec_from_json(job_id_of(run_id), answer[1])
        except NewerRecord:
            self._put_back(run_id, token, now_ms + self._redeliver_after_ms)
            return "newer"
        except RecordBroken as error:
            failed = Outcome(state=RunState.FAILED, error=str(error))
            follow_up = FollowUp(delivery=DeliveryState.NONE, queue=queue)
            self._finish(run_id, token, queue, failed, now_ms=now_ms, follow_up=follow_up)
            return failed.state.value
        return Claim(
            run_id=run_id,
            token=token,
            spec=spec,
            attempt=int(answer[2]),
            due_ms=due_ms_of(run_id),
            queue=queue,
        )

    def performed(self, run_id: str) -> Performed | None:
        """Which message of a run was performed last; None where there is no such run."""
        (row,) = self._database.hashes([self._keys.run(run_id)], "state", "message", "hop")
        if not row:
            return None
        fields = Fields(row)
        return Performed(
            state=fields.word(RunState, "state"),
            message=fields.text("message") or run_id,
            hop=fields.number("hop") or 0,
        )

    def holders(self, run_ids: Sequence[str]) -> dict[str, Holder]:
        """Who performs some runs, or has; without those that are gone or cannot be read."""
        fields = ("worker", "claim", "finished_by")
        rows = self._database.hashes([self._keys.run(run_id) for run_id in run_ids], *fields)
        return {
            run_id: Holder(**{name: row.get(name) or "" for name in fields})
            for run_id, row in zip(run_ids, rows, strict=True)
            if not isinstance(row, RecordBroken) and any(row.values())
        }

    def message_of(self, run_id: str) -> str:
        """The Celery id of the message that was performed last, else that of its first one."""
        return self._database.call("HGET", self._keys.run(run_id), "message") or run_id

    def heartbeat(
        self,
        claims: Mapping[str, str],
        *,
        now_ms: int,
        printed: Mapping[str, PrintedPiece] = MappingProxyType({}),
        groups: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, str]:
        """Say that runs (id to claim token) still run; answers `ok`, `cancel` or `lost` each.

        `broken`: a key of the run is not as it should be, and what it printed was not kept. With
        them goes what they printed since the last time, and the concurrency group of each.
        """
        keys = [self._keys.heartbeats]
        args: list[str | int | bytes] = [now_ms + self._heartbeat_timeout_ms]
        for run_id, token in claims.items():
            new = printed.get(run_id, PrintedPiece())
            keys += (
                self._keys.run(run_id),
                self._keys.output(run_id),
                self._keys.stderr(run_id),
                self._keys.group(groups.get(run_id) or job_id_of(run_id)),
            )
            args += (run_id, token, new.stdout, new.stderr)
        answers = self._database.run("heartbeat", keys=keys, args=args)
        return dict(zip(claims, answers, strict=True))

    def finish(
        self,
        claim: Claim,
        outcome: Outcome,
        *,
        now_ms: int,
        retry_at_ms: int | None = None,
        follow_up: FollowUp | None = None,
    ) -> str:
        """Record how a run ended, or with `retry_at_ms` put it back in line until then.

        With `follow_up` the end and the beginning of its delivery are one step. Answers `ok`,
        `retry`, or `late`: the claim is no longer ours and nothing changed. Raises RecordBroken.
        """
        if follow_up is None:
            silent = DeliveryState.SILENT if outcome.silent else DeliveryState.NONE
            follow_up = FollowUp(delivery=silent, queue=claim.queue)
        return self._finish(
            claim.run_id,
            claim.token,
            claim.queue,
            outcome,
            now_ms=now_ms,
            retry_at_ms=retry_at_ms,
            follow_up=follow_up,
        )

    def _finish(
        self,
        run_id: str,
        token: str,
        queue: str,
        outcome: Outcome,
        *,
        now_ms: int,
        retry_at_ms: int | None = None,
        follow_up: FollowUp,
    ) -> str:
        keys, job_id = self._keys, job_id_of(run_id)
        answer = self._database.run(
            "finish",
            keys=[
                keys.run(run_id),
                keys.job(job_id),
                keys.active(job_id),
                keys.heartbeats,
                keys.output(run_id),
                keys.stderr(run_id),
                keys.held(job_id),
                self._database.due_key(job_id),
                keys.queued,
                keys.completed,
                queue,
                keys.deliveries,
                keys.troubles(job_id),
                follow_up.queue,
            ],
            args=[
                token,
                now_ms,
                run_id,
                outcome.state.value,
                outcome.error or "",
                outcome.reason or "",
                "" if outcome.exit_code is None else outcome.exit_code,
                follow_up.delivery.value,
                outcome.output,
                outcome.stderr,
                "" if retry_at_ms is None else retry_at_ms,
                now_ms + self._redeliver_after_ms,
                follow_up.message,
                int(follow_up.is_needed),
            ],
        )
        return str(answer)

    def put_back(
        self,
        claim: Claim,
        *,
        ready_at_ms: int,
        handed_on: str = "",
        handed_hop: int = 0,
        handed_queue: str = "",
        retry_at_ms: int | None = None,
        starts_again: bool = False,
    ) -> str:
        """Give a claim back: the run is queued, and its message pushed at that instant at latest.

        `handed_on` is the Celery id of the message that the run goes on with, and `handed_hop` how
        often that was sent on at least, to the list `handed_queue` if not to the run's own: no
        other one may claim it, none is pushed, and at that
        instant it is over, or with `starts_again` its message is pushed after all. `retry_at_ms`
        says when that message is to be performed, where it is a retry. Answers `ok`, or `late`: the
        claim is no longer ours, nothing changed.
        """
        handed = (
            handed_on,
            handed_hop,
            "" if retry_at_ms is None else retry_at_ms,
            int(starts_again),
            handed_queue,
        )
        return self._put_back(claim.run_id, claim.token, ready_at_ms, handed)

    def _put_back(
        self,
        run_id: str,
        token: str,
        ready_at_ms: int,
        handed: Sequence[str | int] = _NOT_HANDED_ON,
    ) -> str:
        keys = self._keys
        script_keys = [
            keys.run(run_id),
            keys.active(job_id_of(run_id)),
            keys.queued,
            keys.heartbeats,
        ]
        args = [token, run_id, ready_at_ms, *handed]
        return str(self._database.run("put_back", keys=script_keys, args=args))

    def cancel(self, run_id: str, *, reason: str, now_ms: int, token: int | None = None) -> str:
        """Ask for a run's end: `cancelled`, `asked` or `over`.

        A leader gives its `token`. Raises RunNotFound, and LeaseLost when a younger leader's token
        is known.
        """
        answer = self._end(
            run_id, state=RunState.CANCELLED, reason=reason, now_ms=now_ms, token=token
        )
        if answer == "gone":
            raise RunNotFound(run_id)
        return answer

    def expire(self, run_id: str, *, now_ms: int, token: int | None = None) -> None:
        """Drop a waiting run whose lateness deadline has passed; a leader gives its `token`.

        One that a worker claimed at the last moment is left alone.
        """
        reason = "expired: no worker took it in time"
        self.end_waiting(run_id, state=RunState.SKIPPED, reason=reason, now_ms=now_ms, token=token)

    def end_waiting(
        self,
        run_id: str,
        *,
        state: RunState,
        now_ms: int,
        reason: str = "",
        error: str = "",
        attempt: int | None = None,
        hop: int = 0,
        token: int | None = None,
    ) -> str:
        """End a run that waits, whose message went nowhere; one that runs is left alone.

        With an `error` its end is told to people. With an `attempt` only if that attempt's message,
        which the run's own tasks had sent on `hop` times, is the one that it waits for. Answers
        `cancelled`, `over` or `gone`. Raises LeaseLost.
        """
        return self._end(
            run_id,
            state=state,
            reason=reason,
            now_ms=now_ms,
            token=token,
            error=error,
            leaves_running=True,
            attempt=attempt,
            hop=hop,
        )

    def _end(
        self,
        run_id: str,
        *,
        state: RunState,
        reason: str,
        now_ms: int,
        token: int | None,
        error: str = "",
        leaves_running: bool = False,
        attempt: int | None = None,
        hop: int = 0,
    ) -> str:
        return cancel_run(
            self._database,
            run_id,
            reason=reason,
            state=state,
            queue=self._queue_of(run_id),
            now_ms=now_ms,
            redeliver_at_ms=now_ms + self._redeliver_after_ms,
            token=token,
            error=error,
            leaves_running=leaves_running,
            attempt=attempt,
            hop=hop,
        )

    def _queue_of(self, run_id: str) -> str:
        """The queue that a run's message was pushed to."""
        queue = self._database.call("HGET", self._keys.run(run_id), "queue")
        return str(queue or self._keys.default_queue)

    def queues_of(self, run_ids: Sequence[str]) -> list[str]:
        """The Redis list that each run's message was pushed to."""
        rows = self._database.hashes([self._keys.run(run_id) for run_id in run_ids], "queue")
        return [
            self._keys.default_queue
            if isinstance(row, RecordBroken)
            else row.get("queue") or self._keys.default_queue
            for row in rows
        ]

    def spec_of(self, run_id: str) -> tuple[JobSpec | None, int]:
        """A run's job, None where it is gone or unreadable, and the number of its attempt."""
        (run,) = self._database.hashes([self._keys.run(run_id)], "attempt")
        attempt = Fields(run).number("attempt") or 1
        try:
            job = self._database.hash(self._keys.job(job_id_of(run_id)), "spec")
            return spec_from_json(job_id_of(run_id), job["spec"]), attempt
        except (RecordBroken, KeyError):
            return None, attempt

    def silent_since(self, now_ms: int, *, limit: int) -> list[str]:
        """The ids of running runs whose claim died at `now_ms` or earlier."""
        return self._overdue(self._keys.heartbeats, now_ms, limit)

    def lose(
        self,
        run_id: str,
        *,
        error: str,
        now_ms: int,
        token: int | None = None,
        retry_at_ms: int | None = None,
    ) -> str:
        """Give up a run whose heartbeat stopped, or with `retry_at_ms` put it back in line.

        Answers `ok`, `retry`, or `alive`: it turned out to be, and nothing changed.

        Raises LeaseLost when a younger leader's token is known.
        """
        return self._lose(
            run_id,
            error=error,
            now_ms=now_ms,
            token=token,
            retry_at_ms=retry_at_ms,
            state=RunState.LOST,
        )

    def give_up(
        self,
        run_id: str,
        *,
        pid: int,
        state: RunState,
        error: str,
        now_ms: int,
        retry_at_ms: int | None = None,
        is_requeued: bool = False,
    ) -> str:
        """End a run at once in `state`, because the process that ran it has ended.

        `pid` is that process; a run that another one runs by now is left alone. With `retry_at_ms`
        it is put back in line for its next attempt, whose message is on the queue already where
        it `is_requeued`. A run whose end was asked for is cancelled. Answers as `lose`.
        """
        return self._lose(
            run_id,
            error=error,
            now_ms=now_ms,
            token=None,
            retry_at_ms=retry_at_ms,
            state=state,
            claimed=f"{pid}-",
            is_requeued=is_requeued,
        )

    def _lose(
        self,
        run_id: str,
        *,
        error: str,
        now_ms: int,
        token: int | None,
        retry_at_ms: int | None,
        state: RunState,
        claimed: str = "",
        is_requeued: bool = False,
    ) -> str:
        keys, job_id = self._keys, job_id_of(run_id)
        return self._fenced(
            "lose",
            keys=[
                keys.term,
                keys.run(run_id),
                keys.job(job_id),
                keys.active(job_id),
                keys.heartbeats,
                keys.held(job_id),
                self._database.due_key(job_id),
                keys.queued,
                keys.completed,
                self._queue_of(run_id),
                keys.deliveries,
            ],
            args=[
                "" if token is None else token,
                now_ms,
                run_id,
                error,
                "" if retry_at_ms is None else retry_at_ms,
                now_ms + self._redeliver_after_ms,
                claimed,
                state.value,
                int(is_requeued),
            ],
        )

    def _overdue(self, key: str, now_ms: int, limit: int) -> list[str]:
        return list(self._database.call("ZRANGEBYSCORE", key, "-inf", now_ms, "LIMIT", 0, limit))
