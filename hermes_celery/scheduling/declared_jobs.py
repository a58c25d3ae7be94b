"""Jobs that a configuration describes: added, changed and removed with it.

The leader compares what its project declares with what is stored, each time that it takes the lead.
Jobs that people made are left alone; a managed job that somebody paused stays paused. A managed
job's id follows from its name, so that every beat means the same job.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from hermes_celery.core.job import Job, JobRequest, JobState, UnreadableJob
from hermes_celery.core.job_checks import define, with_beginning_of
from hermes_celery.core.replanning import over_if_used_up, replanned
from hermes_celery.errors import Conflict, HermesCeleryError, StoreError
from hermes_celery.events import event
from hermes_celery.instant import from_ms
from hermes_celery.store import WRITES, Jobs, Write

_log = logging.getLogger(__name__)
#: What a job remembers of its beginning; not a difference.
_BEGINNINGS = ("anchor_ms", "created_ms")
#: Races with ticks, and with people who pause a job, that are run again when lost.
_RETRIES = 5


class SyncReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, by the jobs' names."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    #: What could not be made or written: the name, and why.
    refused: dict[str, str] = {}
    #: Whether others were faster again and again, so that something is still to be written.
    has_more: bool = False


def managed_id(manager: str, name: str) -> str:
    """The id of a managed job."""
    return hashlib.sha256(f"{manager}\0{name}".encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredJobs:
    """The jobs that one project declares."""

    #: Who declares them; each of the stored jobs says so.
    manager: str
    requests: Mapping[str, JobRequest]
    #: The zone of a job that names none.
    default_timezone: str
    #: Where a job is declared, by its name, for people.
    place_of: Callable[[str], str | None] = lambda name: None


def synchronise(
    jobs: Jobs, declared: DeclaredJobs, *, now: datetime, left: Collection[str] = ()
) -> SyncReport:
    """Make the manager's jobs what is declared. One that cannot be made is told, not fatal.

    The ids in `left` are left alone: their jobs are on their way from another namespace.

    Raises StoreError.
    """
    manager = declared.manager
    wanted = {managed_id(manager, name): request for name, request in declared.requests.items()}
    for job_id in left:
        wanted.pop(job_id, None)
    names = {managed_id(manager, name): name for name in declared.requests}
    new: list[Job] = []
    refused: dict[str, str] = {}
    for job_id, request in wanted.items():
        try:
            job = _job(request, job_id, declared, now=now)
            new.append(_placed(job, declared.place_of(names[job_id])))
        except HermesCeleryError as error:
            refused[names[job_id]] = str(error)
    kept = {*wanted, *left}
    gone = [job_id for job_id in jobs.managed_by(manager) if job_id not in kept]
    done, unwritten, raced = _put(jobs, new)
    refused |= {names[job_id]: why for job_id, why in unwritten.items()}
    removed, left_over = _remove(jobs, gone)
    report = SyncReport(
        refused=refused,
        added=tuple(name for name, word in done.items() if word == "added"),
        changed=tuple(name for name, word in done.items() if word == "changed"),
        removed=removed,
        has_more=raced or left_over,
    )
    for word in ("added", "changed", "removed"):
        for name in getattr(report, word):
            event(_log, f"job.{word}", job=name, manager=manager)
    for name, why in refused.items():
        event(_log, "job.refused", level=logging.ERROR, job=name, why=why)
    return report


def _job(request: JobRequest, job_id: str, declared: DeclaredJobs, *, now: datetime) -> Job:
    spec, first = define(
        request, job_id=job_id, now=now, default_timezone=declared.default_timezone
    )
    return Job(spec=msgspec.structs.replace(spec, managed_by=declared.manager), next_run_at=first)


def _placed(job: Job, place: str | None) -> Job:
    return msgspec.structs.replace(job, spec=msgspec.structs.replace(job.spec, declared_in=place))


def _put(jobs: Jobs, new: Sequence[Job]) -> tuple[dict[str, str], dict[str, str], bool]:
    """Write what is new or differs, page by page.

    Returns the name of each written job with the word for it, the id of each that was not written,
    with the reason, and whether there is one that others changed each time.
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
    """Write them, note what became of each, and return those that a tick or somebody changed."""
    stored = jobs.get_many([job.id for job in new]) if new else {}
    writes, wanted = [], []
    for job in new:
        try:
            write = _write(stored.get(job.id), job)
        except HermesCeleryError as error:
            refused[job.id] = str(error)
        else:
            writes += [write] if write else []
            wanted += [job] if write else []
    again = []
    for write, job, outcome in zip(writes, wanted, jobs.write_many(writes), strict=True):
        if isinstance(outcome, Job):
            done[outcome.name] = "added" if write.was is None else "changed"
        elif isinstance(outcome, StoreError):
            raise outcome
        elif isinstance(outcome, Conflict):
            again.append(job)
        else:
            refused[write.job.id] = str(outcome)
    return again


def _write(old: Job | UnreadableJob | None, new: Job) -> Write | None:
    """What is to be written; None where nothing differs. Raises HermesCeleryError."""
    if isinstance(old, UnreadableJob):
        raise HermesCeleryError(old.fault)
    if old is None:
        return Write(job=new)
    changed = _changed(old, new)
    return None if changed is None else Write(job=changed, was=old)


def _changed(old: Job, new: Job) -> Job | None:
    """The stored job with what is declared now; None where nothing differs."""
    beginning = {name: getattr(old.spec, name) for name in _BEGINNINGS}
    same_beginning = msgspec.structs.replace(new.spec, **beginning)
    if old.state is JobState.ERROR:
        # What kept it from being planned may be mended, also where nothing of it was changed.
        mended = msgspec.structs.replace(
            old, spec=new.spec, state=JobState.SCHEDULED, next_run_at=new.next_run_at
        )
        return over_if_used_up(mended)
    if same_beginning == old.spec:
        return None
    # Who declares it, and where, is said anew; when it began is not.
    declared = {name: getattr(new.spec, name) for name in ("managed_by", "declared_in")}
    spec = msgspec.structs.replace(with_beginning_of(old.spec, new.spec), **declared)
    return replanned(old, spec, now=from_ms(new.spec.created_ms))


def _remove(jobs: Jobs, ids: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Remove jobs: the names of those that were there, and whether one was changed meanwhile."""
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
