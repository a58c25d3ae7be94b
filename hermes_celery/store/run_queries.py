"""Read runs: one by one, the latest of all or of one job, and their output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import msgspec

from hermes_celery.core.arguments import a_text
from hermes_celery.core.job import JobSpec
from hermes_celery.core.output import as_text
from hermes_celery.core.readable import can_be_sent, readable
from hermes_celery.core.run import (
    MOST_HOPS,
    DeliveryState,
    Run,
    RunState,
    Trigger,
    due_ms_of,
    is_run_id,
    job_id_of,
)
from hermes_celery.errors import RecordBroken, RunNotFound, StoreError
from hermes_celery.instant import from_ms
from hermes_celery.store.database import Database
from hermes_celery.store.job_records import spec_from_json
from hermes_celery.store.pages import Order, PagePosition, lex_pages, pages, position_of
from hermes_celery.store.record_fields import Fields

#: How many latest runs of a job are searched for its last output.
_LATEST = 200
#: Fields that only scripts use: a value that scripts refuse is a fault.
_COUNTED = ("pushes", "on_queue_ms", "retry_ms", "patience_ms")
_HOPS = ("hop", "handed_hop")
#: Bytes of an output that are read for its first line.
_BEGINNING = 4096


class RunHolder(msgspec.Struct, frozen=True, kw_only=True):
    """The worker and the claims of a run, as far as its record names them."""

    worker: str = ""
    #: The token of the current claim.
    claim: str = ""
    #: The token of the claim that recorded the run's end.
    finished_by: str = ""


class LastPerformed(msgspec.Struct, frozen=True, kw_only=True):
    """The message of a run that was executed last."""

    state: RunState
    #: The Celery id of the message.
    message: str
    #: How often the run's own tasks had handed it on.
    hop: int


class RunRecords:
    """Reads the runs of one namespace."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def get(self, run_id: str) -> Run:
        """Return one run; unreadable parts are named in its `fault`. Raises RunNotFound."""
        (fields,) = self._database.hashes([self._keys.run(run_id)])
        if not fields:
            raise RunNotFound(run_id)
        return run_from_fields(run_id, fields)

    def known(self, run_ids: Sequence[str]) -> list[Run]:
        """Return the existing runs among these ids, in one round trip."""
        rows = self._database.hashes([self._keys.run(run_id) for run_id in run_ids])
        return [
            run_from_fields(run_id, fields)
            for run_id, fields in zip(run_ids, rows, strict=True)
            if fields
        ]

    def has_run(self, run_id: str) -> bool:
        """Return whether an occurrence has a run that was not skipped."""
        state = self._database.call("HGET", self._keys.run(run_id), "state")
        return state not in (None, RunState.SKIPPED.value)

    def performed(self, run_id: str) -> LastPerformed | None:
        """Return the message of a run that was executed last; None if there is no such run."""
        (row,) = self._database.hashes([self._keys.run(run_id)], "state", "message", "hop")
        if not row:
            return None
        fields = Fields(row)
        return LastPerformed(
            state=fields.word(RunState, "state"),
            message=fields.text("message") or run_id,
            hop=fields.number("hop") or 0,
        )

    def holders(self, run_ids: Sequence[str]) -> dict[str, RunHolder]:
        """Return the holders of some runs, without runs that are missing or unreadable."""
        fields = ("worker", "claim", "finished_by")
        rows = self._database.hashes([self._keys.run(run_id) for run_id in run_ids], *fields)
        return {
            run_id: RunHolder(**{name: row.get(name) or "" for name in fields})
            for run_id, row in zip(run_ids, rows, strict=True)
            if not isinstance(row, RecordBroken) and any(row.values())
        }

    def message_of(self, run_id: str) -> str:
        """Return the Celery id of the message that was executed last, else of the first message."""
        return self._database.call("HGET", self._keys.run(run_id), "message") or run_id

    def _queue_of(self, run_id: str) -> str:
        """Return the queue that a run's message was pushed to."""
        queue = self._database.call("HGET", self._keys.run(run_id), "queue")
        return str(queue or self._keys.default_queue)

    def queues_of(self, run_ids: Sequence[str]) -> list[str]:
        """Return, for each run, the Redis list that its message was pushed to."""
        rows = self._database.hashes([self._keys.run(run_id) for run_id in run_ids], "queue")
        return [
            self._keys.default_queue
            if isinstance(row, RecordBroken)
            else row.get("queue") or self._keys.default_queue
            for row in rows
        ]

    def spec_of(self, run_id: str) -> tuple[JobSpec | None, int]:
        """Return a run's job (None if it is missing or unreadable) and its attempt number."""
        (run,) = self._database.hashes([self._keys.run(run_id)], "attempt")
        attempt = Fields(run).number("attempt") or 1
        try:
            job = self._database.hash(self._keys.job(job_id_of(run_id)), "spec")
            return spec_from_json(job_id_of(run_id), job["spec"]), attempt
        except (RecordBroken, KeyError):
            return None, attempt

    def output(self, run_id: str) -> bytes:
        """Return a run's stored standard output."""
        return self._database.raw("GET", self._keys.output(run_id)) or b""

    def beginnings(self, run_ids: Sequence[str]) -> list[bytes]:
        """Return the first 4 KiB of each run's output, in one round trip.

        An unreadable output is replaced by a text that says what is wrong.
        """
        found = self._database.raw_many(
            [("GETRANGE", self._keys.output(run_id), 0, _BEGINNING - 1) for run_id in run_ids]
        )
        return [
            f"(unreadable: {one})".encode("utf-8", "replace")
            if isinstance(one, StoreError)
            else one
            for one in found
        ]

    def printed_since(self, run_id: str, start: int, *, is_error: bool) -> tuple[bytes, int]:
        """Return the output from byte `start` on, even of a running run, and the total size."""
        key = self._keys.stderr(run_id) if is_error else self._keys.output(run_id)
        new = self._database.raw("GETRANGE", key, start, -1) or b""
        return new, start + len(new) if new else int(self._database.call("STRLEN", key))

    def stderr(self, run_id: str) -> bytes:
        """Return a run's stored standard error."""
        return self._database.raw("GET", self._keys.stderr(run_id)) or b""

    def latest_output(self, job_id: str, *, except_run: str) -> str | None:
        """Return the output of a job's last ended run with any output, as text.

        The run `except_run` is left out. Returns None if there is none among the latest 200 runs.
        """
        for run in self.latest(job_id=job_id, limit=_LATEST):
            if run.id != except_run and run.state.is_final and run.output_bytes:
                return as_text(self.output(run.id))
        return None

    def latest(
        self,
        *,
        job_id: str | None = None,
        state: RunState | None = None,
        since: datetime | None = None,
        after: str | None = None,
        limit: int,
    ) -> list[Run]:
        """Return at most `limit` runs, newest first, by job, state and the instant of recording.

        With `after`, a run's id, begin behind that run. Raises RunNotFound for an unknown `after`.
        """
        found: list[Run] = []
        for run in self._newest_first(job_id, after):
            if since is not None and run.queued_at < since and run.fault is None:
                break
            if state is None or run.state is state:
                found.append(run)
            if len(found) >= limit:
                break
        return found

    def counts(self) -> dict[str, int]:
        """Return the numbers of queued and running runs."""
        return {
            "queued": int(self._database.call("ZCARD", self._keys.queued)),
            "running": int(self._database.call("ZCARD", self._keys.heartbeats)),
        }

    def running_on(self, worker: str) -> list[str]:
        """Return the ids of the runs that a worker executes now."""
        ids = self._database.call("ZRANGE", self._keys.heartbeats, 0, -1)
        rows = self._database.hashes([self._keys.run(run_id) for run_id in ids], "worker")
        return [
            run_id
            for run_id, row in zip(ids, rows, strict=True)
            if not isinstance(row, RecordBroken) and row.get("worker") == worker
        ]

    def _newest_first(self, job_id: str | None, after: str | None) -> Iterator[Run]:
        found = self._of_all(after) if job_id is None else self._of_job(job_id, after)
        for ids in found:
            rows = self._database.hashes([self._keys.run(run_id) for run_id in ids])
            for run_id, fields in zip(ids, rows, strict=True):
                if fields:
                    yield run_from_fields(run_id, fields)

    def _of_all(self, after: str | None) -> Iterator[list[str]]:
        place = None if after is None else self._position_of(after)
        return pages(self._database, self._keys.runs, order=Order.DOWN, after=place)

    def _position_of(self, run_id: str) -> PagePosition:
        found = can_be_sent(run_id) and position_of(self._database, self._keys.runs, run_id)
        if not found:
            raise RunNotFound(run_id)
        return found

    def _of_job(self, job_id: str, after: str | None) -> Iterator[list[str]]:
        if after is not None and not (is_run_id(after) and job_id_of(after) == job_id):
            raise self._not_of(job_id, after)
        last = f"[{job_id}." if after is None else f"({after}"
        return lex_pages(
            self._database,
            self._keys.job_runs,
            low=f"[{job_id}-".encode(),
            high=last.encode(),
            order=Order.DOWN,
        )

    def _not_of(self, job_id: str, run_id: str) -> RunNotFound:
        if is_run_id(run_id) and self._database.call("EXISTS", self._keys.run(run_id)):
            why = f"run {run_id} is of job {job_id_of(run_id)}, not of job {job_id}"
            return RunNotFound(run_id, why=f"{why}; give a run of that job")
        return RunNotFound(run_id)


def check_run_id(text: str) -> str:
    """Return the text if it has the form of a run id.

    Raises RunNotFound, and JobError for a value that is no text.
    """
    if not is_run_id(a_text(text, name="run_id")):
        raise RunNotFound(text)
    return text


def run_from_fields(run_id: str, row: Mapping[str, str] | RecordBroken) -> Run:
    """Return a stored run as a value; unreadable fields get stand-ins and a `fault`."""
    fields = Fields(row)
    due_at = _due_at(run_id, fields)
    run = Run(
        id=run_id,
        job_id=job_id_of(run_id),
        job_name=fields.required("job_name"),
        due_at=due_at,
        queued_at=fields.required_instant("queued_ms", stand_in=due_at),
        started_at=fields.instant("started_ms"),
        finished_at=fields.instant("finished_ms"),
        state=fields.word(RunState, "sort", fields.word(RunState, "state")),
        trigger=fields.word(Trigger, "trigger", Trigger.SCHEDULE),
        attempt=_or(fields.number("attempt"), 1),
        worker=fields.text("worker"),
        error=fields.text("error"),
        reason=fields.text("reason"),
        exit_code=fields.number("exit_code"),
        delivery=fields.word(DeliveryState, "delivery", DeliveryState.NONE),
        delivery_warning=fields.text("delivery_warning"),
        output_bytes=fields.number("output_bytes"),
        tokens=fields.number("tokens"),
        cost_usd=fields.amount("cost_usd"),
        expires_at=fields.instant("expires_ms"),
        handed_on=fields.text("handed_on"),
        retry_at=fields.instant("retry_ms"),
    )
    for name in _COUNTED:
        fields.counted(name)
    for name in _HOPS:
        fields.counted(name, most=MOST_HOPS)
    return msgspec.structs.replace(run, fault=fields.fault) if fields.faults else run


def _due_at(run_id: str, fields: Fields) -> datetime:
    """Return the nominal instant, which is part of the run id."""
    try:
        return from_ms(due_ms_of(run_id))
    except (ValueError, IndexError, OverflowError):
        fields.add_fault("id", f"is {readable(run_id)[:60]!r}, not a run's id")
        return from_ms(0)


def _or(number: int | None, default: int) -> int:
    return default if number is None else number
