"""What people write: jobs, found by id or name, changed by compare-and-set."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from hermes_celery.core.fields import TIMING
from hermes_celery.core.job import (
    Job,
    JobSpec,
    JobState,
    UnreadableJob,
    is_job_id,
    name_key,
)
from hermes_celery.core.readable import readable
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

#: Jobs that are written in one round trip: each takes the server some 20 microseconds, and it
#: serves others between them.
WRITES = 250
#: How often the number of shards may change while somebody writes.
_RESHARDINGS = 3
#: Where no next instant is compared.
_ANY = "*"
_Fields = dict[str, str | int | bytes]
#: A job is read at every one of its runs; what is larger belongs into a file.
#: Records that are counted, and names that are looked at, in one command: some 0.2 ms.
_COUNTED = 1000
#: Names that are looked at for the name of a job whose record is gone.
_MOST_NAMES = 100_000
_MAX_SPEC_BYTES = 256 * 1024
_Row = dict[str, str] | RecordBroken


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """A job that is to be stored."""

    job: Job
    #: How it was read; None: it is new.
    was: Job | None = None


#: A job as it is stored now, or why it was not written.
Written = Job | HermesCeleryError


class Jobs:
    """The jobs of one namespace."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def add(self, job: Job) -> Job:
        """Store a new job. Raises Conflict when another one has its id."""
        return self._write(Write(job=job))

    def change(self, job: Job, *, was: Job) -> Job:
        """Store a changed job, if nobody changed it since `was` was read.

        Where it stands (state, next run, counts) is written only as far as it differs from `was`:
        ticks and runs may have moved on meanwhile. Raises Conflict when somebody changed or removed
        it, or when a tick moved on a job whose schedule or next run changes; nothing was written.
        """
        return self._write(Write(job=job, was=was))

    def write_many(self, writes: Sequence[Write]) -> list[Written]:
        """Add and change many jobs: each in one atomic step, some hundreds in one round trip.

        Returns what became of each, in order: the job, or the Conflict, JobError or StoreError for
        which it was not written. Raises StoreUnavailable; those before may have been written.
        """
        written: list[Written] = []
        for start in range(0, len(writes), WRITES):
            written += self._write_page(writes[start : start + WRITES])
        return written

    def count_of(self, ids: Sequence[str]) -> int:
        """How many of some jobs have a record. Raises StoreError."""
        keys = [self._keys.job(job_id) for job_id in ids]
        return sum(
            int(self._database.call("EXISTS", *keys[start : start + _COUNTED]))
            for start in range(0, len(keys), _COUNTED)
        )

    def name_left_by(self, job_id: str) -> str:
        """The name of a job whose record is gone, of its latest run or in the index of names.

        The index has names in small letters. "" where neither knows it. Raises StoreError.
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
        """Remove a job; its runs stay as history. Raises Conflict if it changed meanwhile."""
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
        """Remove a job that cannot be read; returns the key under which its record is kept.

        Raises Conflict if it changed meanwhile, and RecordBroken when an index is no index.
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
        """End the open incidents of a job that is gone; what is left of them, the leader ends."""
        incidents = Incidents(self._database)
        with suppress(RecordBroken):
            found = incidents.of_job(job_id)
            incidents.end(found, job_id=job_id, now_ms=self._database.now_ms())

    def get(self, job_id: str) -> Job:
        """The job of that id. Raises JobNotFound, and RecordBroken when it cannot be read."""
        return _readable(self._get(job_id))

    def _get(self, job_id: str) -> Job | UnreadableJob:
        rows = self.get_many([job_id])
        if job_id not in rows:
            raise JobNotFound(job_id)
        return rows[job_id]

    def get_many(self, ids: Collection[str]) -> dict[str, Job | UnreadableJob]:
        """Those of the jobs that exist, by id, in one round trip."""
        keys = [self._keys.job(job_id) for job_id in ids]
        found = zip(ids, keys, self._database.hashes(keys), strict=True)
        return {
            job_id: job_from_fields(job_id, row, key=key)
            for job_id, key, row in found
            if row and not has_moved(row)
        }

    def stored(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that jobs have, in one round trip."""
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
        """The specs of those jobs that exist and can be read, in one round trip.

        `on_broken` hears of each that exists and cannot be read, with its id.
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
        """The job of that id, or else of that whole name, whatever its case.

        Raises JobNotFound, AmbiguousJobReference when several jobs share the name, and RecordBroken
        when it cannot be read.
        """
        return _readable(self.look_up(reference))

    def look_up(self, reference: str) -> Job | UnreadableJob:
        """The job as `find` finds it, also one that cannot be read."""
        reference = reference.strip()
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
        """The ids of all jobs with that name, whatever its case."""
        prefix = name_key(name) + "\0"
        entries = self._database.call(
            "ZRANGEBYLEX", self._keys.names, f"[{prefix}", f"[{prefix}\x7f"
        )
        return [str(entry)[len(prefix) :] for entry in entries]

    def managed_by(self, manager: str) -> list[str]:
        """The ids of the jobs that a configuration manages, or managed."""
        return sorted(self._database.call("SMEMBERS", self._keys.managed(manager)))

    def count(self) -> int:
        """How many jobs there are."""
        return int(self._database.call("ZCARD", self._keys.jobs))

    def all(self) -> Iterator[Job]:
        """Every job that can be read, oldest first, read page by page."""
        return (job for job in self.matching() if isinstance(job, Job))

    def matching(
        self, *, name: str = "", state: JobState | None = None, after: str | None = None
    ) -> Iterator[Job | UnreadableJob]:
        """The jobs in a state whose names begin with `name`, whatever its case, page by page.

        Oldest first, or with a `name` by their names. `after` is the id of a job: what follows it.
        A job that cannot be read comes in its place as an UnreadableJob. Raises JobNotFound.
        """
        found = self._by_name(name, after) if name else self._by_creation(after)
        return (job for ids in found for job in self._in_state(ids, state))

    def count_after(self, job: Job | UnreadableJob, *, name: str = "") -> int:
        """How many jobs follow a job, in the order of `matching`; 0 when it is gone."""
        if not name:
            return int(self._database.call("ZREVRANK", self._keys.jobs, job.id) or 0)
        low, high = _name_range(name, self._entry_of(job))
        return int(self._database.call("ZLEXCOUNT", self._keys.names, low, high))

    def _entry_of(self, job: Job | UnreadableJob) -> str:
        """A job's member of the index of names; "" where an unreadable one has none."""
        if isinstance(job, Job):
            return name_entry(job)
        return next(iter(self._entries_of(job.id)), "")

    def _entries_of(self, job_id: str) -> list[str]:
        """What the index of names holds of a job whose name is unknown: looks at all of it."""
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
            # Those that were written before the number changed answer as they did.
            self._database.forget_shards()
        answers = iter(found)
        return [
            call if isinstance(call, JobError) else _written(write, next(answers))
            for write, call in zip(writes, calls, strict=True)
        ]

    def _enter_managed(self, writes: Sequence[Write]) -> None:
        """Note which jobs a configuration manages.

        Before they are written, so that a managed job is never without its entry; an entry without
        a job is passed over.
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
                "seen_next_ms": _next_as_read(write),
            },
            more_args=[part for pair in fields.items() for part in pair],
        )

    def _job_keys(self, job_id: str) -> dict[str, str]:
        keys, due = self._keys, self._database.due_key(job_id)
        return {"job": keys.job(job_id), "due": due, "jobs": keys.jobs, "names": keys.names}


def has_moved(row: _Row) -> bool:
    """Whether this is what is left of a job that moved to another namespace; see `move_job.lua`."""
    if isinstance(row, RecordBroken):
        return False
    return "moved" in row and row["moved"] == row.get("revision")


def job_from_fields(job_id: str, row: _Row, *, key: str) -> Job | UnreadableJob:
    """A stored job as a value, or what can be shown of one that cannot be read."""
    fields = Fields(row)
    text = "" if isinstance(row, RecordBroken) else row.get("spec", "")
    try:
        spec = spec_from_json(job_id, _spec_text(row), key=key)
        check_instants(key, spec)
        revision = fields.number("revision")
        if revision is None:
            raise RecordBroken(key, fields.fault or "has no revision")
    except RecordBroken as error:
        return unreadable_job(job_id, fields, text, error)
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
        stored_spec="" if spec_to_json(spec, stored="") == text.encode() else text,
    )
    return msgspec.structs.replace(job, faults=fields.faults) if fields.faults else job


def _spec_text(row: _Row) -> str:
    """The stored definition. Raises RecordBroken where the record is no hash."""
    if isinstance(row, RecordBroken):
        raise row
    return row.get("spec", "")


def _state_word(row: _Row) -> str | None:
    return None if isinstance(row, RecordBroken) else row.get("state")


def _readable(job: Job | UnreadableJob) -> Job:
    """The job. Raises RecordBroken when it cannot be read."""
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
    """A job's member of the index of names."""
    return f"{name_key(job.name)}\0{job.id}"


def _name_range(name: str, entry: str) -> tuple[bytes, bytes]:
    """The bounds, in the index of names, of what begins with `name` and follows an entry."""
    first, behind = name_key(name).encode(), entry.encode()
    low = b"(" + behind if behind >= first else b"[" + first
    # No text in UTF-8 holds this byte.
    return low, b"[" + first + b"\xff"


def _fields(write: Write) -> _Fields:
    """What is to be written; "" takes a field away."""
    job, was = write.job, write.was
    if was is None:
        # What ticks read and write comes first: a listpack is searched from its beginning.
        fields = {**_standing_fields(job), **_spec_fields(job), **_history_fields(job)}
        return {name: value for name, value in fields.items() if value != ""}
    standing, before = _standing_fields(job), _standing_fields(was)
    moved = {
        name: value
        for name, value in standing.items()
        if value != before[name] or name in was.faults
    }
    if moved.get("next_ms"):
        # A run that ends meanwhile may complete the job, which has a run to come again.
        moved["state"] = standing["state"]
    # A change by a person starts the count of failures anew.
    return {**_spec_fields(job), **moved, "failures": ""}


def _spec_fields(job: Job) -> _Fields:
    """What was asked for."""
    spec = spec_to_json(job.spec, stored=job.stored_spec)
    return {"spec": spec, "pause_after": job.spec.policy.pause_after or ""}


def _standing_fields(job: Job) -> _Fields:
    """Where the job stands."""
    return {
        "state": job.state.value,
        "next_ms": _or_empty(job.next_run_at),
        # A tick writes over what has a place already; to make one it would copy the job.
        "completed": job.completed,
        "paused_ms": _or_empty(job.paused_at),
        "paused_reason": job.paused_reason or "",
    }


def _history_fields(job: Job) -> _Fields:
    """What only an imported job brings along; a changed job's is the scripts' business."""
    return {
        "last_run_ms": _or_empty(job.last_run_at),
        "last_status": job.last_status or "",
        "last_error": job.last_error or "",
        "last_delivery_error": job.last_delivery_error or "",
    }


def _completes(write: Write) -> bool:
    """Whether a job that had runs to come has none by this change."""
    was = write.was
    return (
        was is not None
        and write.job.state is JobState.COMPLETED
        and was.state is not JobState.COMPLETED
    )


def _next_as_read(write: Write) -> str | int:
    """The next instant that a change of it, or of how often it comes, was made from; else any."""
    job, was = write.job, write.was
    if was is None or "next_ms" in was.faults:
        return _ANY
    names = (*TIMING, "repeat_times")
    is_same = all(getattr(job.spec, name) == getattr(was.spec, name) for name in names)
    return _ANY if is_same and job.next_run_at == was.next_run_at else _or_empty(was.next_run_at)


def _or_empty(instant: datetime | None) -> str | int:
    return "" if instant is None else to_ms(instant)
