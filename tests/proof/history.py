"""History as values: what the schedules asked for, what is on record, what really started.

The three come from different places. Targets come from the schedules themselves, records from
Redis, and starts from files that the jobs wrote on disk. So a store that forgets, or a worker that
lies, cannot also hide it.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from hermes_celery.core.run import Run, Trigger
from hermes_celery.schedule import Schedule
from hermes_celery.store import Runs

_EVERYTHING = 10_000_000


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of time in which one definition of a job was in force.

    An edit or a pause ends a span; an edit or a resume begins one. Times are the server's.
    """

    job_id: str
    schedule: Schedule
    #: Exclusive: a schedule begins after the instant at which it was written.
    start: datetime
    #: Inclusive.
    end: datetime
    #: Every occurrence up to here must be accounted for. The edit that ended the span may have
    #: overtaken later ones. None: all of the span is settled.
    settled_until: datetime | None = None
    #: Whether the job allows more than one start: `on_lost: retry`, or retries.
    may_repeat: bool = False
    #: Number of occurrences that `repeat` allows.
    limit: int | None = None
    #: How late its runs may start, if not within the checker's bound. A job that catches up with
    #: missed occurrences is late by design.
    late_after: timedelta | None = None


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """A start that the job itself wrote down."""

    run_id: str
    attempt: int


class History(msgspec.Struct, frozen=True, kw_only=True):
    """The input of the history checker: the jobs' schedules, the records and the starts."""

    spans: tuple[Span, ...]
    records: tuple[Run, ...]
    starts: tuple[Start, ...]
    #: The run ids that triggers returned.
    asked: frozenset[str] = frozenset()

    @property
    def scheduled(self) -> Iterator[Run]:
        """The records made by a schedule."""
        return (run for run in self.records if run.trigger is Trigger.SCHEDULE)


def all_records(runs: Runs) -> tuple[Run, ...]:
    """Return every run on record."""
    return tuple(runs.latest(limit=_EVERYTHING))


def note_start(directory: Path, run_id: str, attempt: int) -> None:
    """Write one start to a new file of its own."""
    name = f"{run_id}.{attempt}.{secrets.token_hex(6)}"
    os.close(os.open(directory / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


class StartLog:
    """Starts as lines of one file per process, for too many runs to give each a file.

    Each is one write(2) to a file opened for appending, so a killed process leaves whole lines.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / f"{os.getpid()}-{secrets.token_hex(4)}.starts"
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)

    def note(self, run_id: str, attempt: int) -> None:
        """Write one start to the file."""
        os.write(self._file, f"{run_id} {attempt} {time.time_ns()}\n".encode())


def starts_in(directory: Path) -> tuple[Start, ...]:
    """Return every start written down in a directory, in either form."""
    found: list[Start] = []
    for path in sorted(directory.iterdir()):
        if path.suffix == ".starts":
            found += (_start(*line.split()[:2]) for line in path.read_text().splitlines())
        else:
            run_id, attempt, _ = path.name.rsplit(".", 2)
            found.append(_start(run_id, attempt))
    return tuple(found)


def _start(run_id: str, attempt: str) -> Start:
    return Start(run_id=run_id, attempt=int(attempt))
