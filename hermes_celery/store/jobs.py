"""Job definitions: find them by id or name, change them by compare-and-set."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from hermes_celery.core.arguments import a_text
from hermes_celery.core.fields import TIMING
from hermes_celery.core.job import (
    Job,
    JobSpec,
    JobState,
    UnreadableJob,
    is_job_id,
    name_key,
)
from hermes_celery.core.readable import can_be_sent, readable
from hermes_celery.errors import (
    AmbiguousJobReference,
    Conflict,
    HermesCeleryError,
    JobError,
    JobNotFound,
    RecordBroken,
    StoreError,
)
from hermes_celery.instant import to_ms
from hermes_celery.store.database import Database, ScriptCall, call_of
from hermes_celery.store.incidents import Incidents
from hermes_celery.store.job_records import (
    NewerRecord,
    check_instants,
    spec_from_json,
    spec_to_json,
    unreadable_job,
)
from hermes_celery.store.pages import Order, lex_pages, pages, position_of
from hermes_celery.store.record_fields import Fields

__all__ = [
    "WRITES",
    "Jobs",
    "NewerRecord",
    "Write",
    "Written",
    "job_from_fields",
    "spec_from_json",
]

#: Jobs per round trip when writing: each takes the server some 20 microseconds, and the server can
#: serve other clients in between.
WRITES = 250
#: How often a write is tried again because the number of shards has changed.
_RESHARDINGS = 3
#: The script argument that skips the comparison of next_run_at.
_ANY = "*"
_Fields = dict[str, str | int | bytes]
#: Records counted, or names read, per command: some 0.2 ms of the server's time.
_COUNTED = 1000
#: Names searched at most for the name of a job whose record is gone.
_MOST_NAMES = 100_000
#: Every run reads its job's definition; larger content belongs in a file.
_MAX_SPEC_BYTES = 256 * 1024
_Row = dict[str, str] | RecordBroken


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """A job to store."""

    job: Job
    #: The job as it was read before the change; None for a new job.
    was: Job | None = None


#: The stored job, or the error that prevented the write.
Written = Job | HermesCeleryError


class Jobs:
    """Reads and writes the jobs of one namespace."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def add(self, job: Job) -> Job:
        """Store a new job. Raises Conflict when another one has its id."""
        return self._write(Write(job=job))

    def change(self, job: Job, *, was: Job) -> Job:
        """Store a changed job, unless it was changed since `was` was read.

        State, next run and counters are written only where they differ from `was`: ticks and runs
        may have changed them meanwhile. Raises Conflict, and writes nothing, when somebody changed
        or removed the job, or when a tick or a run's end changed the next run or the state of a job
        whose schedule or next run is to change.
        """
        return self._write(Write(job=job, was=was))

    def write_many(self, writes: Sequence[Write]) -> list[Written]:
        """Add and change many jobs: each in one atomic step, some hundreds in one round trip.

        Returns for each, in order, the stored job, or the Conflict, JobError or StoreError that
        prevented the write. Raises StoreUnavailable; earlier jobs may be written then.
        """
        written: list[Written] = []
        for start in range(0, len(writes), WRITES):
            written += self._write_page(writes[start : start + WRITES])
        return written

    def count_of(self, ids: Sequence[str]) -> int:
        """Return how many of these ids have a job record. Raises StoreError."""
        keys = [self._keys.job(job_id) for job_id in ids]
        return sum(
            int(self._database.call("EXISTS", *keys[start : start + _COUNTED]))
            for start in range(0, len(keys), _COUNTED)
        )

    def name_left_by(self, job_id: str) -> str:
        """Return the name of a job whose record is gone; "" when it is unknown.

        The name comes from the job's latest run, else from the index of names, which is in lower
        case. Raises StoreError.
        """
        last, first = f"[{job_id}.", f"[{job_id}-"
        runs = self._database.call(
            "ZREVRANGEBYLEX", self._keys.job_runs, last, first, "LIMIT", 0, 1
        )
        name = self._database.call("HGET", self._keys.run(runs[0]), "job_name") if runs else None
        return readable(str(name)) if name else self._name_in_index(job_id)

    def _name_in_index(self, job_id: str) -> str:
        for start in range(0, _MOST_NAMES, _COUNTED):
            entries = self._database.call("ZRANGE", self._keys.names, start, start + _COUNTED - 1)
            for entry in entries:
                name, _, owner = str(entry).rpartition("\0")
                if owner == job_id:
                    return readable(name)
            if len(entries) < _COUNTED:
                break
        return ""

    def remove(self, job: Job) -> None:
        """Remove a job; its runs stay as history. Raises Conflict if it was changed meanwhile."""
        answer = self._database.run(
            "remove_job",
            keys=self._job_keys(job.id),
            args={"job_id": job.id, "revision": job.revision, "entry": name_entry(job)},
        )
        if answer != "ok":
            raise Conflict(job.id, expected_revision=job.revision)
        if job.spec.managed_by is not None:
            self._database.call("SREM", self._keys.managed(job.spec.managed_by), job.id)
        self._end_incidents(job.id)

    def remove_unreadable(self, job: UnreadableJob, *, now_ms: int) -> str:
        """Remove an unreadable job; return the quarantine key that keeps its record.

        Raises Conflict if it was changed meanwhile, and RecordBroken when an index has the wrong
        type.
        """
        keys, kept = self._keys, self._keys.quarantine(job.key, at_ms=now_ms)
        shards = range(self._database.shards)
        kind = str(self._database.call("TYPE", job.key))
        spec = self._database.call("HGET", job.key, "spec") if kind == "hash" else None
        answer = self._database.run(
            "remove_unreadable",
            keys={"job": job.key, "jobs": keys.jobs, "names": keys.names, "aside": kept},
            args={"job_id": job.id, "kind": kind, "spec": spec or ""},
            more_keys=[keys.due_of(shard) for shard in shards],
            more_args=self._entries_of(job.id),
        )
        if answer != "ok":
            raise Conflict(job.id, expected_revision=0)
        self._end_incidents(job.id)
        return kept

    def _end_incidents(self, job_id: str) -> None:
        """Close the open incidents of a removed job; the leader closes those that are left."""
        incidents = Incidents(self._database)
        with suppress(RecordBroken):
            found = incidents.of_job(job_id)
            incidents.end(found, job_id=job_id, now_ms=self._database.now_ms())

    def get(self, job_id: str) -> Job:
        """Return the job with this id.

        Raises JobNotFound, and RecordBroken when it is unreadable.
        """
        return _readable(self._get(job_id))

    def _get(self, job_id: str) -> Job | UnreadableJob:
        rows = self.get_many([job_id])
        if job_id not in rows:
            raise JobNotFound(job_id)
        return rows[job_id]

    def get_many(self, ids: Collection[str]) -> dict[str, Job | UnreadableJob]:
        """Return the existing jobs among these ids, by id, in one round trip."""
        keys = [self._keys.job(job_id) for job_id in ids]
        found = zip(ids, keys, self._database.hashes(keys), strict=True)
        return {
            job_id: job_from_fields(job_id, row, key=key)
            for job_id, key, row in found
            if row and not has_moved(row)
        }

    def with_specs(self, specs: Mapping[str, JobSpec]) -> dict[str, Job]:
        """Return existing jobs as if these were their definitions, instead of unreadable ones.

        State and counts are as stored. A job whose revision is unreadable too is left out.
        """
        keys = [self._keys.job(job_id) for job_id in specs]
        rows = zip(specs.values(), keys, self._database.hashes(keys), strict=True)
        found = {}
        for spec, key, row in rows:
            with suppress(RecordBroken):
                found[spec.id] = _job(spec, Fields(row), key=key)
        return found

    def stored(self, ids: Sequence[str]) -> set[str]:
        """Return the ids among these that are in the index of jobs, in one round trip."""
        if not ids:
            return set()
        scores = self._database.call("ZMSCORE", self._keys.jobs, *ids)
        found = zip(ids, scores, strict=True)
        return {job_id for job_id, score in found if score is not None}

    def specs(
        self,
        ids: Collection[str],
        *,
        on_broken: Callable[[str, RecordBroken], None] = lambda job_id, trouble: None,
    ) -> dict[str, JobSpec]:
        """Return the definitions of the existing, readable jobs, by id, in one round trip.

        `on_broken` is called with the id and the error of each unreadable job.
        """
        keys = [self._keys.job(job_id) for job_id in ids]
        rows = self._database.hashes(keys, "spec", "revision")
        specs = {}
        for job_id, key, row in zip(ids, keys, rows, strict=True):
            try:
                if row:
                    specs[job_id] = spec_from_json(job_id, _spec_text(row), key=key)
            except RecordBroken as error:
                on_broken(job_id, error)
        return specs

    def find(self, reference: str) -> Job:
        """Return the job with this id, or else with this full name, ignoring case.

        Raises JobNotFound, AmbiguousJobReference when several jobs share the name, RecordBroken
        when the job is unreadable, and JobError for a reference that is no text.
        """
        return _readable(self.look_up(reference))

    def look_up(self, reference: str) -> Job | UnreadableJob:
        """Return the job as `find` does, or an UnreadableJob."""
        reference = a_text(reference, name="reference").strip()
        if is_job_id(reference):
            found = self.get_many([reference])
            if found:
                return found[reference]
        ids = self.ids_named(reference)
        if not ids:
            raise JobNotFound(reference)
        if len(ids) > 1:
            raise AmbiguousJobReference(reference, ids)
        return self._get(ids[0])

    def ids_named(self, name: str) -> list[str]:
        """Return the ids of all jobs with this name, ignoring case."""
        if not can_be_sent(name):
            return []
        prefix = name_key(name) + "\0"
        low = f"[{prefix}".encode("utf-8", "surrogateescape")
        entries = self._database.call("ZRANGEBYLEX", self._keys.names, low, low + b"\x7f")
        return [str(entry)[len(prefix) :] for entry in entries]

    def managed_by(self, manager: str) -> list[str]:
        """Return the ids of the jobs that a configuration manages, or once managed."""
        return sorted(self._database.call("SMEMBERS", self._keys.managed(manager)))

    def count_managed(self, manager: str) -> int:
        """Return how many ids `managed_by` would return."""
        return int(self._database.call("SCARD", self._keys.managed(manager)))

    def count(self) -> int:
        """Return the number of jobs."""
        return int(self._database.call("ZCARD", self._keys.jobs))

    def all(self) -> Iterator[Job]:
        """Yield every readable job, oldest first, reading page by page."""
        return (job for job in self.matching() if isinstance(job, Job))

    def matching(
        self, *, name: str = "", state: JobState | None = None, after: str | None = None
    ) -> Iterator[Job | UnreadableJob]:
        """Yield the jobs in a state whose names begin with `name`, ignoring case, page by page.

        The order is oldest first, or by name if `name` is given. With `after`, a job's id, begin
        behind that job. An unreadable job is yielded as an UnreadableJob. Raises JobNotFound for an
        unknown `after`.
        """
        if not can_be_sent(name):
            return iter(())
        found = self._by_name(name, after) if name else self._by_creation(after)
        return (job for ids in found for job in self._in_state(ids, state))

    def count_after(self, job: Job | UnreadableJob, *, name: str = "") -> int:
        """Return how many jobs follow this one in the order of `matching`; 0 when it is gone."""
        if not name:
            return int(self._database.call("ZREVRANK", self._keys.jobs, job.id) or 0)
        low, high = _name_range(name, self._entry_of(job))
        return int(self._database.call("ZLEXCOUNT", self._keys.names, low, high))

    def _entry_of(self, job: Job | UnreadableJob) -> str:
        """Return a job's member of the index of names; "" for an unreadable job without one."""
        if isinstance(job, Job):
            return name_entry(job)
        return next(iter(self._entries_of(job.id)), "")

    def _entries_of(self, job_id: str) -> list[str]:
        """Return the entries of a job in the index of names, by a scan of the whole index."""
        everything = lex_pages(
            self._database, self._keys.names, low=b"-", high=b"+", order=Order.UP
        )
        return [entry for page in everything for entry in page if entry.endswith(f"\0{job_id}")]

    def _by_creation(self, after: str | None) -> Iterator[list[str]]:
        place = None if after is None else position_of(self._database, self._keys.jobs, after)
        if after is not None and place is None:
            raise JobNotFound(after)
        return pages(self._database, self._keys.jobs, order=Order.UP, after=place)

    def _by_name(self, name: str, after: str | None) -> Iterator[list[str]]:
        low, high = _name_range(name, "" if after is None else self._entry_of(self._get(after)))
        found = lex_pages(self._database, self._keys.names, low=low, high=high, order=Order.UP)
        return ([entry.rpartition("\0")[2] for entry in page] for page in found)

    def _in_state(
        self, ids: Sequence[str], state: JobState | None
    ) -> Iterator[Job | UnreadableJob]:
        if state is not None:
            keys = [self._keys.job(job_id) for job_id in ids]
            rows = zip(ids, self._database.hashes(keys, "state"), strict=True)
            ids = [job_id for job_id, row in rows if _state_word(row) == state.value]
        for job in self.get_many(ids).values():
            if state is None or job.state == state:
                yield job

    def _write(self, write: Write) -> Job:
        (written,) = self._write_page([write])
        if isinstance(written, HermesCeleryError):
            raise written
        return written

    def _write_page(self, writes: Sequence[Write]) -> list[Written]:
        self._enter_managed(writes)
        for _ in range(_RESHARDINGS):
            calls = [self._call(write) for write in writes]
            fit = [call for call in calls if isinstance(call, ScriptCall)]
            found = self._database.run_many("put_job", fit)
            if not any(answer[:1] == ["resharded"] for answer in found if isinstance(answer, list)):
                break
            # The script may run twice: jobs that are already written answer as before.
            self._database.forget_shards()
        answers = iter(found)
        return [
            call if isinstance(call, JobError) else _written(write, next(answers))
            for write, call in zip(writes, calls, strict=True)
        ]

    def _enter_managed(self, writes: Sequence[Write]) -> None:
        """Record which jobs a configuration manages.

        This comes before the jobs are written, so that a managed job always has its entry; an entry
        without a job is ignored.
        """
        managed: dict[str, list[str]] = {}
        for write in writes:
            if write.job.spec.managed_by is not None:
                managed.setdefault(write.job.spec.managed_by, []).append(write.job.id)
        for manager, ids in managed.items():
            self._database.call("SADD", self._keys.managed(manager), *ids)

    def _call(self, write: Write) -> ScriptCall | JobError:
        job, was, fields = write.job, write.was, _fields(write)
        size = len(fields["spec"]) if isinstance(fields["spec"], bytes) else 0
        if size > _MAX_SPEC_BYTES:
            return JobError(
                f"the job takes {size:,} bytes, more than {_MAX_SPEC_BYTES:,}; "
                "put the bulk into a script or a skill"
            )
        keys = self._keys
        shared = {"mark": keys.mark, "shards": keys.shards, "completed": keys.completed}
        return call_of(
            "put_job",
            keys={**self._job_keys(job.id), **shared},
            args={
                "job_id": job.id,
                "revision": "" if was is None else was.revision,
                "created_ms": job.spec.created_ms,
                "entry": name_entry(job),
                "old_entry": "" if was is None else name_entry(was),
                "wake": keys.wake,
                "new_mark": secrets.token_hex(8),
                "seen_shards": self._database.shards_as_stored,
                "completed_ms": self._database.now_ms() if _completes(write) else "",
                **_seen(write),
            },
            more_args=[part for pair in fields.items() for part in pair],
        )

    def _job_keys(self, job_id: str) -> dict[str, str]:
        keys, due = self._keys, self._database.due_key(job_id)
        return {"job": keys.job(job_id), "due": due, "jobs": keys.jobs, "names": keys.names}


def has_moved(row: _Row) -> bool:
    """Return whether this is the remainder of a job that moved to another namespace.

    `move_job.lua` leaves it.
    """
    if isinstance(row, RecordBroken):
        return False
    return "moved" in row and row["moved"] == row.get("revision")


def job_from_fields(job_id: str, row: _Row, *, key: str) -> Job | UnreadableJob:
    """Return a stored job as a value, or what can be shown of an unreadable one."""
    fields = Fields(row)
    text = "" if isinstance(row, RecordBroken) else row.get("spec", "")
    try:
        spec = spec_from_json(job_id, _spec_text(row), key=key)
        check_instants(key, spec)
        job = _job(spec, fields, key=key)
    except RecordBroken as error:
        return unreadable_job(job_id, fields, text, error)
    is_same = spec_to_json(spec, stored="") == text.encode()
    return job if is_same else msgspec.structs.replace(job, stored_spec=text)


def _job(spec: JobSpec, fields: Fields, *, key: str) -> Job:
    """Return a job with its stored state. Raises RecordBroken when it has no revision."""
    revision = fields.number("revision")
    if revision is None:
        raise RecordBroken(key, fields.fault or "has no revision")
    job = Job(
        spec=spec,
        revision=revision,
        state=fields.word(JobState, "state", JobState.ERROR),
        next_run_at=fields.instant("next_ms"),
        completed=fields.number("completed") or 0,
        paused_at=fields.instant("paused_ms"),
        paused_reason=fields.text("paused_reason"),
        last_run_at=fields.instant("last_run_ms"),
        last_status=fields.text("last_status"),
        last_error=fields.text("last_error"),
        last_delivery_error=fields.text("last_delivery_error"),
    )
    return msgspec.structs.replace(job, faults=fields.faults) if fields.faults else job


def _spec_text(row: _Row) -> str:
    """Return the stored definition. Raises RecordBroken when the record is not a hash."""
    if isinstance(row, RecordBroken):
        raise row
    return row.get("spec", "")


def _state_word(row: _Row) -> str | None:
    return None if isinstance(row, RecordBroken) else row.get("state")


def _readable(job: Job | UnreadableJob) -> Job:
    """Return the job. Raises RecordBroken when it is unreadable."""
    if isinstance(job, Job):
        return job
    advice = f"`hermes-celery remove {job.id}` removes it"
    if job.is_newer:
        raise NewerRecord(job.key, f"{job.what}: a newer version of hermes-celery wrote it")
    raise RecordBroken(job.key, f"{job.what}; {advice}")


def _written(write: Write, answer: Any) -> Written:
    if isinstance(answer, StoreError):
        return answer
    if answer[0] != "ok":
        return Conflict(write.job.id, expected_revision=write.was.revision if write.was else 0)
    return msgspec.structs.replace(write.job, revision=int(answer[1]), faults={})


def name_entry(job: Job) -> str:
    """Return a job's member of the index of names."""
    return f"{name_key(job.name)}\0{job.id}"


def _name_range(name: str, entry: str) -> tuple[bytes, bytes]:
    """Return the bounds of the names that begin with `name` and follow `entry`."""
    first, behind = (text.encode("utf-8", "surrogateescape") for text in (name_key(name), entry))
    low = b"(" + behind if behind >= first else b"[" + first
    # The byte 0xff never occurs in UTF-8.
    return low, b"[" + first + b"\xff"


def _fields(write: Write) -> _Fields:
    """Return the fields to write; "" deletes a field."""
    job, was = write.job, write.was
    if was is None:
        # Fields that ticks use come first: Redis searches a listpack from its beginning.
        fields = {**_standing_fields(job), **_spec_fields(job), **_history_fields(job)}
        return {name: value for name, value in fields.items() if value != ""}
    standing, before = _standing_fields(job), _standing_fields(was)
    moved = {
        name: value
        for name, value in standing.items()
        if value != before[name] or name in was.faults
    }
    # A change by a person resets the count of failures.
    return {**_spec_fields(job), **moved, "failures": ""}


def _spec_fields(job: Job) -> _Fields:
    """Return the fields of the definition."""
    spec = spec_to_json(job.spec, stored=job.stored_spec)
    return {"spec": spec, "pause_after": job.spec.policy.pause_after or ""}


def _standing_fields(job: Job) -> _Fields:
    """Return the fields of the job's current state."""
    return {
        "state": job.state.value,
        "next_ms": _or_empty(job.next_run_at),
        # Written even if 0: to add a field later, Redis would copy the whole job.
        "completed": job.completed,
        "paused_ms": _or_empty(job.paused_at),
        "paused_reason": job.paused_reason or "",
    }


def _history_fields(job: Job) -> _Fields:
    """Return the history of an imported job; scripts write the history of other jobs."""
    return {
        "last_run_ms": _or_empty(job.last_run_at),
        "last_status": job.last_status or "",
        "last_error": job.last_error or "",
        "last_delivery_error": job.last_delivery_error or "",
    }


def _completes(write: Write) -> bool:
    """Return whether this change completes a job that was not completed."""
    was = write.was
    return (
        was is not None
        and write.job.state is JobState.COMPLETED
        and was.state is not JobState.COMPLETED
    )


def _seen(write: Write) -> _Fields:
    """Return the next_run_at and the state that a change is based on, for the script to compare.

    Only a change of the timing, the repeat count or next_run_at compares them: `_ANY` is not
    compared.
    """
    job, was = write.job, write.was
    seen: _Fields = {"seen_next_ms": _ANY, "seen_state": _ANY}
    if was is None:
        return seen
    names = (*TIMING, "repeat_times")
    is_same = all(getattr(job.spec, name) == getattr(was.spec, name) for name in names)
    if is_same and job.next_run_at == was.next_run_at:
        return seen
    if "next_ms" not in was.faults:
        seen["seen_next_ms"] = _or_empty(was.next_run_at)
    if "state" not in was.faults:
        seen["seen_state"] = was.state.value
    return seen


def _or_empty(instant: datetime | None) -> str | int:
    return "" if instant is None else to_ms(instant)
