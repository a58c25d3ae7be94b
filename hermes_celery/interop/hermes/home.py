"""Imports the jobs of a Hermes home.

A record is imported as a whole or not at all; a refused one is reported with its reason and does
not affect the others. A job whose id is already here stays as it is, so importing twice changes
nothing.

Times are read as hermes-agent 0.19 reads them at its own start: a naive time is local in Hermes'
zone; an unreadable next_run_at is computed again; a next_run_at in the past is due at once, and the
job continues from now.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import msgspec

from hermes_celery.core.fields import FIELDS, Field
from hermes_celery.core.job import Job, JobRequest, JobSpec, JobState, is_job_id
from hermes_celery.core.job_checks import checked_content, repeat_times
from hermes_celery.core.targets import normalised
from hermes_celery.errors import Conflict, HermesCeleryError, ImportFault, JobError
from hermes_celery.instant import to_ms
from hermes_celery.schedule import Schedule, ScheduleKind, from_hermes
from hermes_celery.store import WRITES, Jobs, Write

if TYPE_CHECKING:
    from hermes_celery.client import Client


class RefusedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record that could not be imported."""

    job: str
    reason: str


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of an import, job by job (as "id name")."""

    imported: list[str]
    #: Jobs that exist here already; they are not changed.
    kept: list[str]
    refused: list[RefusedRecord]
    #: Hints to check something, although nothing was refused.
    notes: list[str] = []

    def lines(self) -> list[str]:
        """Return the report as lines for people."""
        return [
            *(f"imported {job}" for job in self.imported),
            *(f"kept     {job} (already here)" for job in self.kept),
            *(f"refused  {item.job}: {item.reason}" for item in self.refused),
            *(f"note     {note}" for note in self.notes),
            f"{len(self.imported)} imported, {len(self.kept)} already here, "
            f"{len(self.refused)} refused",
        ]


def import_jobs(cron: Client, path: Path, *, timezone: str) -> ImportReport:
    """Import the jobs of a Hermes home or a jobs.json.

    `timezone` is the zone of Hermes' naive times and cron expressions. Raises ImportFault when the
    file does not exist or is unreadable as a whole; nothing is written then.
    """
    records = read_records(path)
    report = ImportReport(imported=[], kept=[], refused=[])
    for start in range(0, len(records), WRITES):
        _import_page(cron, records[start : start + WRITES], start, report, timezone=timezone)
    if not report.imported:
        return report
    return msgspec.structs.replace(report, notes=_foreign_offsets(records, timezone=timezone))


class _Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A valid record as a job, and its name in the report."""

    label: str
    job: Job


def _import_page(
    cron: Client, records: list[Any], start: int, report: ImportReport, *, timezone: str
) -> None:
    """Write the new jobs of some records in one round trip, and report on each record."""
    taken: list[_Taken] = []
    for position, record in enumerate(records, start):
        label = _label(record, position)
        try:
            job = job_from_record(record, timezone=timezone, now=cron.now)
        except HermesCeleryError as error:
            report.refused.append(RefusedRecord(job=label, reason=str(error)))
        else:
            taken.append(_Taken(label=label, job=job))
    try:
        _store(cron.jobs, taken, report)
    except HermesCeleryError as error:
        report.refused.extend(RefusedRecord(job=one.label, reason=str(error)) for one in taken)


def _store(jobs: Jobs, taken: list[_Taken], report: ImportReport) -> None:
    here = jobs.stored([one.job.id for one in taken])
    new: dict[str, int] = {}
    for position, one in enumerate(taken):
        if one.job.id not in here:
            # Of two records with the same id, the first counts.
            new.setdefault(one.job.id, position)
    written = jobs.write_many([Write(job=taken[position].job) for position in new.values()])
    outcomes = dict(zip(new.values(), written, strict=True))
    for position, one in enumerate(taken):
        outcome = outcomes.get(position)
        if outcome is None or isinstance(outcome, Conflict):
            # It is already here, or another program has added it meanwhile.
            report.kept.append(one.label)
        elif isinstance(outcome, HermesCeleryError):
            report.refused.append(RefusedRecord(job=one.label, reason=str(outcome)))
        else:
            report.imported.append(one.label)


def _foreign_offsets(records: list[Any], *, timezone: str) -> list[str]:
    """Return a note if Hermes wrote its times in a zone other than `timezone`."""
    zone = ZoneInfo(timezone)
    for record in records:
        text = _object(record).get("next_run_at")
        try:
            written = datetime.fromisoformat(text) if isinstance(text, str) else None
        except ValueError:
            continue
        schedule = _object(_object(record).get("schedule"))
        if schedule.get("kind") != "cron" or written is None or written.utcoffset() is None:
            continue
        here = written.astimezone(zone)
        if here.utcoffset() != written.utcoffset():
            return [
                f"{schedule.get('expr')!r:.99} is now read in {timezone} (UTC{_offset(here)}); "
                f"Hermes read cron expressions in its own zone (UTC{_offset(written)}). If you "
                "want that zone, remove the imported jobs and import again with its name, such as "
                "--timezone Europe/Berlin"
            ]
    return []


def _offset(moment: datetime) -> str:
    return moment.isoformat()[-6:]


def read_records(path: Path) -> list[Any]:
    """Return the raw job records of a Hermes home or a jobs.json. Raises ImportFault."""
    file = _jobs_file(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ImportFault(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ImportFault(f"{file} is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ImportFault(
            f"{file} is corrupt: {error.msg} at line {error.lineno} column {error.colno} "
            f"(char {error.pos}). Nothing was imported; repair the file or restore a copy"
        ) from None
    if isinstance(content, dict):
        content = content.get("jobs", [])
    if not isinstance(content, list):
        raise ImportFault(
            f"{file} is corrupt: expected {{'jobs': [...]}}, got {type(content).__name__}. "
            "Nothing was imported"
        )
    return content


def job_from_record(record: Any, *, timezone: str, now: datetime) -> Job:
    """Return a stored Hermes job as a job of ours. Raises JobError or ScheduleError."""
    if not isinstance(record, dict):
        raise JobError(f"the record is {type(record).__name__}, not an object")
    job_id = str(record.get("id") or record.get("job_id") or "")
    if not is_job_id(job_id):
        raise JobError(f"its id {job_id!r} is not 12 hex digits; add it by hand under a new id")
    schedule, anchor, next_run_at = _timing(record, job_id=job_id, timezone=timezone, now=now)
    created = _time(record.get("created_at"), timezone=timezone) or now
    repeat = _object(record.get("repeat"))
    times = repeat_times(_whole(repeat.get("times")), schedule)
    completed = _whole(repeat.get("completed")) or 0
    spec = JobSpec(
        id=job_id,
        schedule=schedule.text,
        schedule_display=str(record.get("schedule_display") or schedule.display),
        timezone=schedule.timezone,
        anchor_ms=to_ms(anchor),
        created_ms=to_ms(created),
        repeat_times=times,
        **checked_content(_request(record)),
    )
    state = _state(record, is_over=times is not None and completed >= times)
    if state is JobState.SCHEDULED and next_run_at is None:
        raise JobError(f"its time {schedule.text} has passed and it never ran; add it again")
    return Job(
        spec=spec,
        state=state,
        next_run_at=None if state is JobState.COMPLETED else next_run_at,
        completed=completed,
        paused_at=_time(record.get("paused_at"), timezone=timezone),
        paused_reason=_text(record.get("paused_reason")),
        last_run_at=_time(record.get("last_run_at"), timezone=timezone),
        last_status=_text(record.get("last_status")),
        last_error=_text(record.get("last_error")),
        last_delivery_error=_text(record.get("last_delivery_error")),
    )


def _timing(
    record: Mapping[str, Any], *, job_id: str, timezone: str, now: datetime
) -> tuple[Schedule, datetime, datetime | None]:
    """Return the schedule, the start of its grid, and its next instant."""
    stored = _object(record.get("schedule"))
    next_run_at = _time(record.get("next_run_at"), timezone=timezone)
    anchor = now
    if stored.get("kind") == "interval" and next_run_at is not None:
        # Keep the grid that contains the instant that Hermes planned.
        anchor = next_run_at - timedelta(minutes=_whole(stored.get("minutes")) or 0)
    schedule = from_hermes(stored, timezone=timezone, now=anchor, spread=job_id)
    if next_run_at is None:
        if schedule.kind is ScheduleKind.ONCE:
            next_run_at = schedule.next_after(now - timedelta(seconds=121))
        else:
            next_run_at = schedule.next_after(now)
    return schedule, anchor, next_run_at


def _request(record: Mapping[str, Any]) -> JobRequest:
    """Return the fields of a record that are checked like those of a new job."""
    given = {
        field.name: _given(field, record)
        for field in FIELDS
        if field.hermes and field.check is not None
    }
    try:
        return msgspec.convert({"schedule": "", **given}, JobRequest)
    except msgspec.ValidationError as error:
        raise JobError(f"a field cannot be read: {error}") from None


def _given(field: Field, record: Mapping[str, Any]) -> Any:
    """Return a record's value of a field, in the form of a request."""
    found = [record[key] for key in field.hermes if record.get(key) is not None]
    if not found:
        return field.empty
    value = next((one for one in found if one), found[0])
    if field.is_switch:
        return bool(value)
    if field.is_many and isinstance(value, str):
        return [value]
    return _SPELT_OTHERWISE.get(field.name, _as_it_is)(value)


def _as_it_is(value: Any) -> Any:
    return value


def _origin(value: Any) -> Any:
    """Return an origin with all parts as texts.

    Hermes stores the ids of some platforms as numbers, and null for unknown parts.
    """
    if not isinstance(value, dict):
        return value or None
    return {name: str(part) for name, part in value.items() if part is not None} or None


_SPELT_OTHERWISE: Final[Mapping[str, Callable[[Any], Any]]] = {
    "deliver": normalised,
    "origin": _origin,
}


def _state(record: Mapping[str, Any], *, is_over: bool) -> JobState:
    if is_over or record.get("state") == "completed":
        return JobState.COMPLETED
    paused = record.get("state") == "paused" or not record.get("enabled", True)
    return JobState.PAUSED if paused else JobState.SCHEDULED


def _jobs_file(path: Path) -> Path:
    if not path.exists():
        raise ImportFault(f"{path} does not exist; give a Hermes home or a jobs.json")
    if path.is_file():
        return path
    for candidate in (path / "cron" / "jobs.json", path / "jobs.json"):
        if candidate.is_file():
            return candidate
    raise ImportFault(f"{path} has no cron/jobs.json; give a Hermes home or a jobs.json")


def _time(value: Any, *, timezone: str) -> datetime | None:
    """Return a stored time as an aware datetime in UTC; None if it is missing or invalid."""
    if not isinstance(value, str):
        return None
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        return None
    local = instant if instant.tzinfo else instant.replace(tzinfo=ZoneInfo(timezone))
    return local.astimezone(UTC)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _label(record: Any, position: int) -> str:
    if not isinstance(record, dict):
        return f"job {position + 1}"
    job_id = record.get("id") or record.get("job_id") or f"job {position + 1}"
    return f"{job_id} {record.get('name') or ''}".strip()
