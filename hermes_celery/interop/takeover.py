"""Imports jobs from other schedulers: each entry as a whole, or not at all with the reason.

An entry becomes an ordinary stored job, which can be edited and removed. Its id is derived from its
source and its name, so that importing again makes no second job. A job that is already here stays
as it is.

The time of an entry's last run is kept, because the old beat counted from there: an interval
continues from that instant, and an occurrence that became due meanwhile runs once, as it would have
there. Runs of such a job may overlap, as with Celery's beat.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec

from hermes_celery.core.job import Job, JobRequest, JobState
from hermes_celery.core.job_checks import define
from hermes_celery.errors import Conflict, HermesCeleryError, error_text
from hermes_celery.instant import iso, to_ms
from hermes_celery.store import WRITES, Jobs, Write

if TYPE_CHECKING:
    from hermes_celery.client import Client


_T = TypeVar("_T")


class ForeignEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of another scheduler."""

    name: str
    #: None if it cannot become a job; then `refused` says why.
    request: JobRequest | None = None
    refused: str = ""
    #: Why it need not be imported; "" if it must be.
    kept: str = ""
    is_enabled: bool = True
    last_run_at: datetime | None = None


class EntryOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome for one entry."""

    name: str
    #: The id of its job; None if it became no job.
    job: str | None = None
    #: The job's schedule and task, or why the entry was kept or refused.
    text: str = ""


class TakeoverReport(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of an import or a dry run, entry by entry."""

    is_dry_run: bool
    imported: list[EntryOutcome]
    #: Already here, or declared by the project; left as they are.
    kept: list[EntryOutcome]
    refused: list[EntryOutcome]

    def lines(self) -> list[str]:
        """Return the report as lines for people."""
        verb = "would import" if self.is_dry_run else "imported"
        done = "nothing was written: " if self.is_dry_run else ""
        return [
            *(f"{verb} {one.job} {one.name}: {one.text}" for one in self.imported),
            *(f"kept     {one.job or ''} {one.name}: {one.text}" for one in self.kept),
            *(f"refused  {one.name}: {one.text}" for one in self.refused),
            f"{done}{len(self.imported)} {'to import' if self.is_dry_run else 'imported'}, "
            f"{len(self.kept)} kept as they are, {len(self.refused)} refused",
        ]


def entry_or_reason(
    name: str, read: Callable[[], ForeignEntry], *, what: str = "it"
) -> ForeignEntry:
    """Return the entry that `read` makes, or one that is refused with the error's text.

    `what` names the unreadable part in that text.
    """
    made = _made_or_reason(read, what=what)
    return ForeignEntry(name=name, refused=made) if isinstance(made, str) else made


def _made_or_reason(make: Callable[[], _T], *, what: str) -> _T | str:
    try:
        return make()
    except HermesCeleryError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - other programs' data may raise anything; reported
        return f"{what} cannot be read: {error_text(error)}"


def id_of(source: str, name: str) -> str:
    """Return the id of the job that an entry becomes."""
    return hashlib.sha256(f"{source}\0{name}".encode("utf-8", "surrogatepass")).hexdigest()[:12]


def missing(jobs: Jobs, source: str, names: Sequence[str]) -> list[str]:
    """Return the names of entries that were not imported. Raises StoreError."""
    ids = {id_of(source, name): name for name in names}
    here = jobs.stored(list(ids))
    return [name for job_id, name in ids.items() if job_id not in here]


def take_over(
    cron: Client,
    entries: Sequence[ForeignEntry],
    *,
    source: str,
    timezone: str,
    dry_run: bool = False,
) -> TakeoverReport:
    """Import entries as jobs; with `dry_run` only report what would be done.

    `timezone` is the zone of entries that name none. Raises StoreError; what was written before
    stays written, and the next call continues.
    """
    report = TakeoverReport(is_dry_run=dry_run, imported=[], kept=[], refused=[])
    new: list[Job] = []
    for entry in entries:
        if entry.kept:
            report.kept.append(EntryOutcome(name=entry.name, text=entry.kept))
            continue
        make = partial(_job, entry, source=source, now=cron.now, timezone=timezone)
        made = _made_or_reason(make, what="it")
        if isinstance(made, str):
            report.refused.append(EntryOutcome(name=entry.name, text=made))
        else:
            new.append(made)
    for start in range(0, len(new), WRITES):
        _put(cron.jobs, new[start : start + WRITES], report)
    return report


def _job(entry: ForeignEntry, *, source: str, now: datetime, timezone: str) -> Job:
    if entry.request is None:
        raise HermesCeleryError(entry.refused)
    last = entry.last_run_at if entry.is_enabled else None
    since = now if last is None or last > now else last
    spec, first = define(
        entry.request, job_id=id_of(source, entry.name), now=since, default_timezone=timezone
    )
    spec = msgspec.structs.replace(spec, created_ms=to_ms(now))
    if entry.is_enabled:
        return Job(spec=spec, next_run_at=first, last_run_at=entry.last_run_at)
    return Job(
        spec=spec,
        state=JobState.PAUSED,
        next_run_at=first,
        last_run_at=entry.last_run_at,
        paused_at=now,
        paused_reason=f"it was disabled in {source}",
    )


def _put(jobs: Jobs, page: Sequence[Job], report: TakeoverReport) -> None:
    here = jobs.stored([job.id for job in page])
    for job in page:
        if job.id in here:
            report.kept.append(_kept(job))
    new = [job for job in page if job.id not in here]
    if report.is_dry_run:
        report.imported.extend(map(_line, new))
        return
    written = jobs.write_many([Write(job=job) for job in new])
    for job, outcome in zip(new, written, strict=True):
        if isinstance(outcome, Conflict):
            # Another program has added it meanwhile.
            report.kept.append(_kept(job))
        elif isinstance(outcome, HermesCeleryError):
            report.refused.append(EntryOutcome(name=job.name, text=str(outcome)))
        else:
            report.imported.append(_line(job))


def _kept(job: Job) -> EntryOutcome:
    return EntryOutcome(name=job.name, job=job.id, text="already here")


def _line(job: Job) -> EntryOutcome:
    task = "" if job.spec.task is None else f", {job.spec.task.name}"
    state = "paused" if job.state is JobState.PAUSED else f"next {iso(job.next_run_at)}"
    text = f"{job.spec.schedule} ({job.spec.timezone}){task}, {state}"
    return EntryOutcome(name=job.name, job=job.id, text=text)
