"""What people write: jobs, found by id or name, changed by compare-and-set."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import datetime

import msgspec

from hermes_celery.errors import (
    AmbiguousJobReference,
    Conflict,
    JobError,
    JobNotFound,
    StoreError,
)
from hermes_celery.instant import optional_from_ms, to_ms
from hermes_celery.job import Job, JobSpec, JobState, is_job_id, name_key
from hermes_celery.store.database import Database

_PAGE = 200
_Fields = dict[str, str | int | bytes]
#: A job is read at every one of its runs; what is larger belongs into a file.
_MAX_SPEC_BYTES = 256 * 1024
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(JobSpec).decode


class Jobs:
    """The jobs of one namespace."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def add(self, job: Job) -> Job:
        """Store a new job. Raises Conflict when its id is taken."""
        fields = {**_spec_fields(job), **_standing_fields(job), **_history_fields(job)}
        return self._put(job, fields, expected_revision=None)

    def change(self, job: Job, *, was: Job) -> Job:
        """Store a changed job, if nobody changed it since `was` was read.

        Where it stands (state, next run, counts) is written only as far as it differs from `was`:
        ticks and runs may have moved on meanwhile. Raises Conflict when somebody changed or removed
        it; then nothing was written.
        """
        standing, before = _standing_fields(job), _standing_fields(was)
        moved = {name: value for name, value in standing.items() if value != before[name]}
        # A change by a person starts the count of failures anew.
        fields = {**_spec_fields(job), **moved, "failures": ""}
        return self._put(job, fields, expected_revision=was.revision)

    def remove(self, job: Job) -> None:
        """Remove a job; its runs stay as history. Raises Conflict if it changed meanwhile."""
        answer = self._database.run(
            "remove_job", keys=self._job_keys(job.id), args=[job.id, job.revision]
        )
        if answer != "ok":
            raise Conflict(job.id, expected_revision=job.revision)
        if job.spec.managed_by is not None:
            self._database.call("SREM", self._keys.managed(job.spec.managed_by), job.id)

    def get(self, job_id: str) -> Job:
        """The job of that id. Raises JobNotFound."""
        (fields,) = self._database.hashes([self._keys.job(job_id)])
        if not fields:
            raise JobNotFound(job_id)
        return job_from_fields(job_id, fields)

    def specs(self, ids: Collection[str]) -> dict[str, JobSpec]:
        """The specs of those jobs that exist and can be read, in one round trip."""
        rows = self._database.hashes([self._keys.job(job_id) for job_id in ids], "spec")
        specs = {}
        for job_id, fields in zip(ids, rows, strict=True):
            with suppress(StoreError):
                specs[job_id] = spec_from_json(job_id, fields.get("spec", ""))
        return specs

    def find(self, reference: str) -> Job:
        """The job of that id, or else of that whole name, whatever its case.

        Raises JobNotFound, or AmbiguousJobReference when several jobs share the name.
        """
        reference = reference.strip()
        if is_job_id(reference):
            (fields,) = self._database.hashes([self._keys.job(reference)])
            if fields:
                return job_from_fields(reference, fields)
        ids = self.ids_named(reference)
        if not ids:
            raise JobNotFound(reference)
        if len(ids) > 1:
            raise AmbiguousJobReference(reference, ids)
        return self.get(ids[0])

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
        """Every job, oldest first, read page by page."""
        start = 0
        while ids := self._database.call("ZRANGE", self._keys.jobs, start, start + _PAGE - 1):
            rows = self._database.hashes([self._keys.job(job_id) for job_id in ids])
            for job_id, fields in zip(ids, rows, strict=True):
                if fields:
                    yield job_from_fields(job_id, fields)
            start += _PAGE

    def _put(self, job: Job, fields: _Fields, *, expected_revision: int | None) -> Job:
        size = len(fields["spec"]) if isinstance(fields["spec"], bytes) else 0
        if size > _MAX_SPEC_BYTES:
            raise JobError(
                f"the job takes {size:,} bytes, more than {_MAX_SPEC_BYTES:,}; "
                "put the bulk into a script or a skill"
            )
        if job.spec.managed_by is not None:
            # First, so that a managed job is never without its entry; an entry without a job is
            # passed over.
            self._database.call("SADD", self._keys.managed(job.spec.managed_by), job.id)
        answer = self._database.run(
            "put_job",
            keys=[*self._job_keys(job.id), self._keys.mark],
            args=[
                job.id,
                "" if expected_revision is None else expected_revision,
                job.spec.created_ms,
                f"{name_key(job.name)}\0{job.id}",
                self._keys.wake,
                secrets.token_hex(8),
                *(part for pair in fields.items() for part in pair),
            ],
        )
        if answer[0] != "ok":
            raise Conflict(job.id, expected_revision=expected_revision or 0)
        return msgspec.structs.replace(job, revision=int(answer[1]))

    def _job_keys(self, job_id: str) -> list[str]:
        keys = self._keys
        return [keys.job(job_id), self._database.due_key(job_id), keys.jobs, keys.names]


def job_from_fields(job_id: str, fields: Mapping[str, str]) -> Job:
    """A stored job as a value. Raises StoreError when the hash cannot be read."""
    return Job(
        spec=spec_from_json(job_id, fields.get("spec", "")),
        revision=int(fields.get("revision", 0)),
        state=JobState(fields.get("state", JobState.ERROR)),
        next_run_at=optional_from_ms(_ms(fields, "next_ms")),
        completed=int(fields.get("completed", 0)),
        paused_at=optional_from_ms(_ms(fields, "paused_ms")),
        paused_reason=fields.get("paused_reason"),
        last_run_at=optional_from_ms(_ms(fields, "last_run_ms")),
        last_status=fields.get("last_status"),
        last_error=fields.get("last_error"),
        last_delivery_error=fields.get("last_delivery_error"),
    )


def spec_from_json(job_id: str, text: str) -> JobSpec:
    """A stored spec as a value. Raises StoreError when it cannot be read."""
    try:
        return _decode(text)
    except msgspec.DecodeError as error:
        raise StoreError(
            f"the stored definition of job {job_id} cannot be read ({error}); "
            "remove the job and add it again"
        ) from None


def _spec_fields(job: Job) -> _Fields:
    """What was asked for."""
    return {"spec": _encode(job.spec), "pause_after": job.spec.policy.pause_after or ""}


def _standing_fields(job: Job) -> _Fields:
    """Where the job stands."""
    return {
        "state": job.state.value,
        "next_ms": _or_empty(job.next_run_at),
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


def _ms(fields: Mapping[str, str], name: str) -> int | None:
    text = fields.get(name)
    return int(text) if text else None


def _or_empty(instant: datetime | None) -> str | int:
    return "" if instant is None else to_ms(instant)
