"""Keep the stored jobs of a project equal to the jobs that its configuration declares.

The leader compares the declared jobs with the stored ones each time it takes the lead. It adds,
changes and removes managed jobs. It leaves jobs that people created alone, and keeps a paused
managed job paused. A managed job's id is derived from its name, so every beat addresses the same
job.

A managed job whose record is unreadable is written again as it is declared, and keeps the state and
the counts that can be read. One that a newer version wrote stays as it is.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import msgspec

from hermes_celery.core.job import Job, JobRequest, JobState, UnreadableJob
from hermes_celery.core.job_checks import define, with_beginning_of
from hermes_celery.core.replanning import is_once, over_if_used_up, replanned
from hermes_celery.errors import Conflict, HermesCeleryError, StoreError
from hermes_celery.events import event
from hermes_celery.instant import from_ms
from hermes_celery.store import WRITES, Jobs, Write

_log = logging.getLogger(__name__)
#: Fields that record when a job began. They are ignored when jobs are compared.
_BEGINNINGS = ("anchor_ms", "created_ms")
#: Attempts to write a job that a tick or a user changes at the same time.
_RETRIES = 5
#: Records that one attempt moves to quarantine: each reads the whole index of names.
_MOVED = 20


class SyncReport(msgspec.Struct, frozen=True, kw_only=True):
    """The names of the jobs that a synchronisation added, changed, removed or refused."""

    added: tuple[str, ...] = ()
    #: Jobs whose records were unreadable.
    rewritten: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    #: Jobs that are invalid or could not be written: name to reason.
    refused: dict[str, str] = {}
    #: Whether a job is still to be written, because others changed it at every attempt.
    has_more: bool = False


def managed_id(manager: str, name: str) -> str:
    """Return the id of a managed job: 12 hexadecimal digits."""
    return hashlib.sha256(f"{manager}\0{name}".encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredJobs:
    """The jobs that one project declares."""

    #: The name of the declaring project, stored in each of its jobs.
    manager: str
    requests: Mapping[str, JobRequest]
    #: The time zone of a job that names none.
    default_timezone: str
    #: Returns the place in the source where a job is declared, given its name.
    place_of: Callable[[str], str | None] = lambda name: None


def synchronise(
    jobs: Jobs, declared: DeclaredJobs, *, now: datetime, left: Collection[str] = ()
) -> SyncReport:
    """Make the manager's stored jobs equal to the declared ones; report invalid jobs and go on.

    Jobs whose ids are in `left` stay as they are: they are being moved from another namespace.

    Raises StoreError.
    """
    manager = declared.manager
    names = {managed_id(manager, name): name for name in declared.requests}
    wanted = {job_id: name for job_id, name in names.items() if job_id not in left}
    new: list[Job] = []
    refused: dict[str, str] = {}
    for name in wanted.values():
        try:
            new.append(declared_job(declared, name, now=now))
        except HermesCeleryError as error:
            refused[name] = str(error)
    kept = {*wanted, *left}
    gone = [job_id for job_id in jobs.managed_by(manager) if job_id not in kept]
    done, unwritten, raced = _put(jobs, new)
    refused |= {names[job_id]: why for job_id, why in unwritten.items()}
    removed, left_over = _remove(jobs, gone)
    report = SyncReport(
        refused=refused,
        added=tuple(name for name, word in done.items() if word == "added"),
        rewritten=tuple(name for name, word in done.items() if word == "rewritten"),
        changed=tuple(name for name, word in done.items() if word == "changed"),
        removed=removed,
        has_more=raced or left_over,
    )
    for word in ("added", "rewritten", "changed", "removed"):
        for name in getattr(report, word):
            event(_log, f"job.{word}", job=name, manager=manager)
    for name, why in refused.items():
        event(_log, "job.refused", level=logging.ERROR, job=name, why=why)
    return report


def declared_job(declared: DeclaredJobs, name: str, *, now: datetime) -> Job:
    """Return a declared job as if created at `now`. Raises HermesCeleryError if it is invalid."""
    spec, first = define(
        declared.requests[name],
        job_id=managed_id(declared.manager, name),
        now=now,
        default_timezone=declared.default_timezone,
    )
    spec = msgspec.structs.replace(
        spec, managed_by=declared.manager, declared_in=declared.place_of(name)
    )
    return Job(spec=spec, next_run_at=first)


def _put(jobs: Jobs, new: Sequence[Job]) -> tuple[dict[str, str], dict[str, str], bool]:
    """Write new and changed jobs, page by page.

    Returns three things: for each written job its name and "added", "rewritten" or "changed"; for
    each refused job its id and the reason; and whether a job was changed by others at every
    attempt.
    """
    done: dict[str, str] = {}
    refused: dict[str, str] = {}
    has_more = False
    for start in range(0, len(new), WRITES):
        page = list(new[start : start + WRITES])
        for _ in range(_RETRIES):
            page = _put_once(jobs, page, done, refused) if page else page
        has_more = has_more or bool(page)
    return done, refused, has_more


def _put_once(
    jobs: Jobs, new: Sequence[Job], done: dict[str, str], refused: dict[str, str]
) -> list[Job]:
    """Write the jobs, record each outcome, and return those that others changed meanwhile."""
    stored = jobs.get_many([job.id for job in new]) if new else {}
    broken, standing = _unreadable(jobs, stored, new)
    again = _moved_away(jobs, [job for job in new if job.id in broken], broken, done)
    writes, wanted = [], []
    for job in (job for job in new if job.id not in broken):
        try:
            mended = standing.get(job.id)
            write = _rewrite(mended, job) if mended else _write(stored.get(job.id), job)
        except HermesCeleryError as error:
            refused[job.id] = str(error)
        else:
            writes += [write] if write else []
            wanted += [job] if write else []
    for write, job, outcome in zip(writes, wanted, jobs.write_many(writes), strict=True):
        if isinstance(outcome, Job):
            done.setdefault(outcome.name, _word(write, is_rewritten=job.id in standing))
        elif isinstance(outcome, StoreError):
            raise outcome
        elif isinstance(outcome, Conflict):
            again.append(job)
        else:
            refused[write.job.id] = str(outcome)
    return again


def _unreadable(
    jobs: Jobs, stored: Mapping[str, Job | UnreadableJob], new: Sequence[Job]
) -> tuple[dict[str, UnreadableJob], dict[str, Job]]:
    """Return the unreadable jobs that are to be written again, by id.

    First those of which nothing can be read; then the others, with their new definitions. A job
    that a newer version wrote is not among them.
    """
    found = {
        job_id: job for job_id, job in stored.items()
        if isinstance(job, UnreadableJob) and not job.is_newer
    }  # fmt: skip
    specs = {job.id: job.spec for job in new if job.id in found}
    standing = jobs.with_specs(specs) if specs else {}
    return {job_id: job for job_id, job in found.items() if job_id not in standing}, standing


def _moved_away(
    jobs: Jobs, new: Sequence[Job], broken: Mapping[str, UnreadableJob], done: dict[str, str]
) -> list[Job]:
    """Move the records of these jobs to quarantine; return the jobs, which are then to be added."""
    for job in new[:_MOVED]:
        with suppress(Conflict):
            jobs.remove_unreadable(broken[job.id], now_ms=job.spec.created_ms)
            done[job.name] = "rewritten"
    return list(new)


def _word(write: Write, *, is_rewritten: bool) -> str:
    return "rewritten" if is_rewritten else "changed" if write.was else "added"


def _rewrite(old: Job, new: Job) -> Write:
    """Return the write of a job's definition; its state and next instant stay if they are valid."""
    is_over = old.completed > 0 and is_once(new.spec.compiled())
    is_unplanned = old.state is JobState.SCHEDULED and old.next_run_at is None and not is_over
    if old.state is not JobState.ERROR and not is_unplanned:
        return Write(job=old, was=old)
    state = JobState.SCHEDULED if old.paused_at is None else JobState.PAUSED
    fresh = msgspec.structs.replace(old, state=state, next_run_at=new.next_run_at)
    return Write(job=over_if_used_up(fresh), was=old)


def _write(old: Job | UnreadableJob | None, new: Job) -> Write | None:
    """Return the write that is needed, or None if nothing differs. Raises HermesCeleryError."""
    if isinstance(old, UnreadableJob):
        raise HermesCeleryError(old.fault)
    if old is None:
        return Write(job=new)
    changed = _changed(old, new)
    return None if changed is None else Write(job=changed, was=old)


def _changed(old: Job, new: Job) -> Job | None:
    """Return the stored job with its declaration applied, or None if nothing differs."""
    beginning = {name: getattr(old.spec, name) for name in _BEGINNINGS}
    same_beginning = msgspec.structs.replace(new.spec, **beginning)
    if old.state is JobState.ERROR:
        # The cause of the error may be repaired even if the declaration is the same.
        mended = msgspec.structs.replace(
            old, spec=new.spec, state=JobState.SCHEDULED, next_run_at=new.next_run_at
        )
        return over_if_used_up(mended)
    if same_beginning == old.spec:
        return None
    # The manager and the place are updated; anchor and creation time stay.
    declared = {name: getattr(new.spec, name) for name in ("managed_by", "declared_in")}
    spec = msgspec.structs.replace(with_beginning_of(old.spec, new.spec), **declared)
    return replanned(old, spec, now=from_ms(new.spec.created_ms))


def _remove(jobs: Jobs, ids: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Remove jobs; return the removed jobs' names and whether others changed one meanwhile."""
    removed: list[str] = []
    has_more = False
    for start in range(0, len(ids), WRITES):
        for job in jobs.get_many(ids[start : start + WRITES]).values():
            if isinstance(job, UnreadableJob):
                event(_log, "job.not_removed", level=logging.ERROR, job=job.id, why=job.fault)
                continue
            try:
                jobs.remove(job)
                removed.append(job.name)
            except Conflict:
                has_more = True
    return tuple(removed), has_more
