"""Shows jobs, runs and times on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import click
import msgspec

from hermes_celery.core.declared import RefusedJob
from hermes_celery.core.fields import FIELDS
from hermes_celery.core.job import Job, JobSpec, JobState, UnreadableJob, word_of
from hermes_celery.core.output import as_text
from hermes_celery.core.readable import readable
from hermes_celery.core.run import Run, RunState
from hermes_celery.core.unknown_words import UNREADABLE
from hermes_celery.errors import cut


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(_json_of(value))


def _json_of(value: object) -> str:
    try:
        text = msgspec.json.encode(value)
    except UnicodeEncodeError:
        # Some text came from bytes in Redis that are not UTF-8.
        text = msgspec.json.encode(_readable(msgspec.to_builtins(value)))
    return msgspec.json.format(text, indent=2).decode()


def _readable(value: Any) -> Any:
    """Return plain values with every text in them made printable."""
    if isinstance(value, dict):
        return {_readable(name): _readable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(inner) for inner in value]
    return readable(value) if isinstance(value, str) else value


def print_json_list(values: Iterable[object]) -> None:
    """Print values as one indented JSON list, each as it comes: there may be a million."""
    before = "[\n  "
    for value in values:
        text = _json_of(value)
        click.echo(before + text.replace("\n", "\n  "), nl=False)
        before = ",\n  "
    click.echo("[]" if before == "[\n  " else "\n]")


def time_text(instant: datetime | None, *, zone: str, missing: str = "-") -> str:
    """Format a time in a zone, to the second; None as `missing`."""
    if instant is None:
        return missing
    return instant.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M:%S")


def refused_row(refusal: RefusedJob) -> list[str]:
    """Return the row in `list` of a declared job that was refused."""
    return [refusal.job_id, cut(refusal.name), "-", "refused", "-", refusal.why, "-"]


def job_row(job: Job | UnreadableJob, *, zone: str) -> list[str]:
    """Return the row of a job in `list`; for an unreadable job it says so."""
    if isinstance(job, UnreadableJob):
        word = "newer version" if job.is_newer else UNREADABLE
        return [job.id, job.name or "-", job.schedule_display or "-", word, "-", job.fault, "-"]
    repeat = "" if job.spec.repeat_times is None else f"{job.completed}/{job.spec.repeat_times}"
    upcoming = job.next_run_at if job.state is JobState.SCHEDULED else None
    return [
        job.id,
        job.name,
        job.spec.schedule_display,
        word_of(job.state.value),
        time_text(upcoming, zone=zone),
        f"{UNREADABLE}: {job.fault}" if job.fault else word_of(job.last_status or "-"),
        repeat or "-",
    ]


JOB_COLUMNS = ("ID", "NAME", "SCHEDULE", "STATE", "NEXT RUN", "LAST", "REPEAT")
RUN_COLUMNS = ("RUN", "JOB", "STATE", "DUE", "TOOK", "WORKER", "SAID")


def run_row(run: Run, *, zone: str, said: str) -> list[str]:
    """Return the row of a run in `runs`."""
    return [run.id, run.job_name, run.state.value, time_text(run.due_at, zone=zone), took(run),
            run.worker or "-", said]  # fmt: skip


def took(run: Run) -> str:
    """Return how long a run took, in seconds; "-" if it is unknown."""
    if run.started_at is None or run.finished_at is None:
        return "-"
    return f"{(run.finished_at - run.started_at).total_seconds():.2f} s"


def summary(run: Run, output: bytes) -> str:
    """Return the first line of a run's output, or why it has none."""
    if run.fault:
        return f"{UNREADABLE}: {run.fault}"
    if run.state is RunState.SUCCEEDED:
        lines = as_text(output).strip().splitlines()
        if run.delivery == "silent" and not lines:
            return "(silent)"
        said = lines[0][:100] if lines else ""
        return f"(not delivered) {said}" if run.delivery == "failed" else said
    return " / ".join(run.why.split("\n"))[:100]


def job_details(job: Job, *, zone: str) -> list[tuple[str, str]]:
    """Return the fields of a job that are set, as label and text."""
    spec = job.spec
    rows: list[tuple[str, Any]] = [
        ("id", job.id),
        ("name", job.name),
        ("state", word_of(job.state.value)),
        ("schedule", f"{spec.schedule_display}  ({spec.timezone})"),
        ("next run", time_text(job.next_run_at, zone=zone)),
        *_field_rows(spec, zone=zone),
        ("managed by", spec.managed_by),
        ("declared in", spec.declared_in),
        ("repeat", f"{job.completed} of {spec.repeat_times}" if spec.repeat_times else None),
        ("paused", time_text(job.paused_at, zone=zone, missing="")),
        ("reason", job.paused_reason),
        ("last run", time_text(job.last_run_at, zone=zone, missing="")),
        ("last status", word_of(job.last_status or "")),
        ("last error", job.last_error),
        ("undelivered", job.last_delivery_error),
        ("unreadable", job.fault),
        ("revision", str(job.revision)),
    ]
    return [(label, str(text)) for label, text in rows if text]


def _field_rows(spec: JobSpec, *, zone: str) -> list[tuple[str, str]]:
    """Return the set fields of a definition, in the rows that the table of fields names."""
    rows: dict[str, list[str]] = {}
    for field in FIELDS:
        value = field.given(field.of(spec))
        if field.row and field.is_set(value):
            here = value.astimezone(ZoneInfo(zone)) if isinstance(value, datetime) else value
            note = f"  ({field.inert})" if field.inert else ""
            rows.setdefault(field.row, []).append(f"{field.text(here)}{note}")
    return [(label, ", ".join(texts)) for label, texts in rows.items()]
