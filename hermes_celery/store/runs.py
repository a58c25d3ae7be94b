"""The life of a run: somebody triggers it, a worker claims it, sends heartbeats and finishes it.

A worker may also return it to the queue. `end_run` ends runs without their worker's report;
`run_queries` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from hermes_celery.core.job import JobSpec
from hermes_celery.core.output import PrintedPiece
from hermes_celery.core.run import DeliveryState, Outcome, RunState, Trigger, due_ms_of, job_id_of
from hermes_celery.errors import JobNotFound, RecordBroken
from hermes_celery.store.database import Arg, Database, or_none
from hermes_celery.store.end_run import EndingRuns
from hermes_celery.store.job_records import NewerRecord, spec_from_json
from hermes_celery.store.queue_load import note_queues

#: How long a trigger's idempotency key is remembered.
_TRIGGER_KEY_SECONDS = 86_400


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's right to execute one run."""

    run_id: str
    token: str
    spec: JobSpec
    attempt: int
    due_ms: int
    #: The queue for the job's next held run.
    queue: str

    @property
    def group(self) -> str:
        """The concurrency group: the job's group, or the job itself."""
        return self.spec.group or self.spec.id


class FollowUp(msgspec.Struct, frozen=True, kw_only=True):
    """The delivery that begins with the end of a run."""

    delivery: DeliveryState
    #: The queue of the delivery's message.
    queue: str
    #: The delivery's message; b"" for none.
    message: bytes = b""
    #: Whether to push it in any case; else only if the job has incidents that may be over.
    is_needed: bool = False


class RequestedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that somebody triggers by hand."""

    run_id: str
    message: bytes
    #: When to push its message, Unix ms; None for at once.
    push_at_ms: int | None = None
    #: Whether to hold it until the active runs of its job have ended, one after the other.
    held: bool = False


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """The Celery queue that messages go to."""

    queue: str
    #: Why its runs end as sent when pushed; "" if its workers report.
    why_sent: str = ""


class HandedOn(msgspec.Struct, frozen=True, kw_only=True):
    """The message with which a run continues after its task handed it on or retries itself."""

    #: Its Celery id; "" if the run was not handed on.
    message: str = ""
    #: How often it was handed on, at least.
    hop: int = 0
    #: The list that it was pushed to, if not the run's own.
    queue: str = ""
    #: For a retry, when it is to be executed, Unix ms.
    retry_at_ms: int | None = None
    #: Whether another message is pushed if this one does not arrive; else the run ends then.
    starts_again: bool = False


_NOT_HANDED_ON = HandedOn()


class _EndingClaim(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a claim that its end needs, for a job whose definition may be unreadable."""

    run_id: str
    token: str
    queue: str


class Runs(EndingRuns):
    """Writes the runs of one namespace. All times are the server's, Unix milliseconds."""

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
        requested: Sequence[RequestedRun],
        *,
        trigger: Trigger,
        now_ms: int,
        to: Destination,
        key: str,
    ) -> list[str]:
        """Record requested runs, and push each at the time that it asks for.

        If the workers of `to` do not report, a run that is pushed at once ends as sent. Returns the
        ids of the new runs. An occurrence that has a record already is left out; the same `key`
        within a day returns the same run as before. Raises JobNotFound when the job was removed
        meanwhile.
        """
        note_queues(self._database, [to.queue])
        keys = self._keys
        listed: list[Arg] = []
        for one in requested:
            push_at = "held" if one.held else or_none(one.push_at_ms)
            listed += (one.run_id, one.message, push_at)
        word, *made = self._database.run(
            "trigger",
            keys={
                "job": keys.job(spec.id),
                "active": keys.active(spec.id),
                "held": keys.held(spec.id),
                "queue": to.queue,
                "queued": keys.queued,
                "runs": keys.runs,
                "job_runs": keys.job_runs,
                "grown": keys.grown,
                "idempotency": keys.idempotency(key),
            },
            args={
                "job_id": spec.id,
                "job_name": spec.name,
                "now_ms": now_ms,
                "redeliver_at_ms": now_ms + self._redeliver_after_ms,
                "keep_seconds": _TRIGGER_KEY_SECONDS,
                "trigger": trigger.value,
                "default_queue": keys.default_queue,
                "why_sent": to.why_sent,
            },
            more_keys=[keys.run(one.run_id) for one in requested],
            more_args=listed,
        )
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
        """Claim a run, or return one word that says why not.

        `message` is the Celery id of the message that asks, and `hop` how often the run's own tasks
        have handed it on: a run that was handed on continues with one message only.

        The words: `taken` (executed already, or by another worker), `sent` (the run has ended as
        sent; the caller executes the task and reports nothing), `removed` (its job is gone; the run
        is cancelled), `expired` (too late; the run is skipped), `gone` (no such run), `failed` (its
        job's definition is unreadable; the run failed with that error), `newer` (only newer
        programs can read its job; the run waits for one of their workers).

        Raises RecordBroken.
        """
        keys, job_id = self._keys, job_id_of(run_id)
        answer = self._database.run(
            "claim",
            keys={
                "run": keys.run(run_id),
                "job": keys.job(job_id),
                "active": keys.active(job_id),
                "queued": keys.queued,
                "heartbeats": keys.heartbeats,
                "stdout": keys.output(run_id),
                "stderr": keys.stderr(run_id),
            },
            args={
                "token": token,
                "now_ms": now_ms,
                "deadline_ms": now_ms + self._heartbeat_timeout_ms,
                "worker": worker,
                "run_id": run_id,
                "message": message,
                "hop": hop,
            },
        )
        if answer[0] == "expired":
            self.expire(run_id, now_ms=now_ms)
        elif answer[0] == "removed":
            self.cancel(run_id, reason="the job was removed", now_ms=now_ms)
        if answer[0] != "ok":
            return str(answer[0])
        queue = answer[3] or self._keys.default_queue
        try:
            spec = spec_from_json(job_id, answer[1])
        except NewerRecord:
            self._put_back(run_id, token, ready_at_ms=now_ms + self._redeliver_after_ms)
            return "newer"
        except RecordBroken as error:
            failed = Outcome(state=RunState.FAILED, error=str(error))
            follow_up = FollowUp(delivery=DeliveryState.NONE, queue=queue)
            held = _EndingClaim(run_id=run_id, token=token, queue=queue)
            self._finish(held, failed, now_ms=now_ms, follow_up=follow_up)
            return failed.state.value
        return Claim(
            run_id=run_id,
            token=token,
            spec=spec,
            attempt=int(answer[2]),
            due_ms=due_ms_of(run_id),
            queue=queue,
        )

    def heartbeat(
        self,
        claims: Mapping[str, str],
        *,
        now_ms: int,
        printed: Mapping[str, PrintedPiece] = MappingProxyType({}),
        groups: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, str]:
        """Extend the claims of running runs (run id to token); return a word for each.

        `printed` is their new output since the last call, `groups` their concurrency groups. The
        words: `ok`, `cancel` (end it), `lost` (the claim was lost), and `broken`: a key of the run
        is broken, and its new output was not kept.
        """
        keys = [self._keys.heartbeats]
        args: list[Arg] = [now_ms + self._heartbeat_timeout_ms]
        for run_id, token in claims.items():
            new = printed.get(run_id, PrintedPiece())
            keys += (
                self._keys.run(run_id),
                self._keys.output(run_id),
                self._keys.stderr(run_id),
                self._keys.group(groups.get(run_id) or job_id_of(run_id)),
            )
            args += (run_id, token, new.stdout, new.stderr)
        answers = self._database.run_listed("heartbeat", keys=keys, args=args)
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
        """Record a run's end, or with `retry_at_ms` queue its next attempt for that time.

        With `follow_up`, the same step begins the delivery. Returns `ok`, `retry`, or `late`: the
        claim was lost and nothing changed. Raises RecordBroken.
        """
        if follow_up is None:
            silent = DeliveryState.SILENT if outcome.silent else DeliveryState.NONE
            follow_up = FollowUp(delivery=silent, queue=claim.queue)
        held = _EndingClaim(run_id=claim.run_id, token=claim.token, queue=claim.queue)
        return self._finish(
            held, outcome, now_ms=now_ms, retry_at_ms=retry_at_ms, follow_up=follow_up
        )

    def _finish(
        self,
        held: _EndingClaim,
        outcome: Outcome,
        *,
        now_ms: int,
        retry_at_ms: int | None = None,
        follow_up: FollowUp,
    ) -> str:
        keys, run_id, job_id = self._keys, held.run_id, job_id_of(held.run_id)
        answer = self._database.run(
            "finish",
            keys={
                "run": keys.run(run_id),
                "job": keys.job(job_id),
                "active": keys.active(job_id),
                "heartbeats": keys.heartbeats,
                "stdout": keys.output(run_id),
                "stderr": keys.stderr(run_id),
                "held": keys.held(job_id),
                "due": self._database.due_key(job_id),
                "queued": keys.queued,
                "completed": keys.completed,
                "queue": held.queue,
                "deliveries": keys.deliveries,
                "incidents": keys.troubles(job_id),
                "delivery_queue": follow_up.queue,
            },
            args={
                "token": held.token,
                "now_ms": now_ms,
                "run_id": run_id,
                "state": outcome.state.value,
                "error": outcome.error or "",
                "reason": outcome.reason or "",
                "exit_code": or_none(outcome.exit_code),
                "delivery": follow_up.delivery.value,
                "stdout": outcome.output,
                "stderr": outcome.stderr,
                "retry_at_ms": or_none(retry_at_ms),
                "redeliver_at_ms": now_ms + self._redeliver_after_ms,
                "message": follow_up.message,
                "is_needed": int(follow_up.is_needed),
            },
        )
        return str(answer)

    def put_back(
        self, claim: Claim, *, ready_at_ms: int, handed_on: HandedOn = _NOT_HANDED_ON
    ) -> str:
        """Return a claimed run to the queue; its message is pushed at `ready_at_ms` at the latest.

        For a run that was `handed_on`, only that message may claim it and none is pushed. At
        `ready_at_ms` it ends, or is pushed after all if it `starts_again`. Returns `ok`, or `late`:
        the claim was lost and nothing changed.
        """
        return self._put_back(
            claim.run_id, claim.token, ready_at_ms=ready_at_ms, handed_on=handed_on
        )

    def _put_back(
        self, run_id: str, token: str, *, ready_at_ms: int, handed_on: HandedOn = _NOT_HANDED_ON
    ) -> str:
        keys = self._keys
        answer = self._database.run(
            "put_back",
            keys={
                "run": keys.run(run_id),
                "active": keys.active(job_id_of(run_id)),
                "queued": keys.queued,
                "heartbeats": keys.heartbeats,
            },
            args={
                "token": token,
                "run_id": run_id,
                "ready_at_ms": ready_at_ms,
                "handed_on": handed_on.message,
                "hop": handed_on.hop,
                "retry_at_ms": or_none(handed_on.retry_at_ms),
                "starts_again": int(handed_on.starts_again),
                "queue": handed_on.queue,
            },
        )
        return str(answer)
