"""What happened, as values: what the schedules asked for, what is on record, what really started.

The three come from different places. Targets come from the schedules themselves; records from
Redis; starts from files that the jobs wrote on disk, so that a store which forgets, or a worker
that lies, cannot also hide it.
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

    An edit ends one and begins another; so does a pause. Times are the server's.
    """

    job_id: str
    schedule: Schedule
    #: Exclusive: a schedule that is written at an instant begins after it.
    start: datetime
    #: Inclusive.
    end: datetime
    #: Up to here every occurrence must be accounted for. What was due between this and `end` may
    #: have been overtaken by the edit that ended the span. None: all of it.
    settled_until: datetime | None = None
    #: Whether its job asks for more than one start: `on_lost: retry`, or retries.
    may_repeat: bool = False
    #: It has only so many occurrences: `repeat`.
    limit: int | None = None
    #: How late its runs may start, if not as the checker is told for all: a job that catches up
    #: with what was missed is late by design.
    late_after: timedelta | None = None


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """A job's own word that it began."""

    run_id: str
    attempt: int


class History(msgspec.Struct, frozen=True, kw_only=True):
    """All that the checker is told."""

    spans: tuple[Span, ...]
    records: tuple[Run, ...]
    starts: tuple[Start, ...]
    #: The run ids that a trigger answered with.
    asked: frozenset[str] = frozenset()

    @property
    def scheduled(self) -> Iterator[Run]:
        """The records that a schedule made."""
        return (run for run in self.records if run.trigger is Trigger.SCHEDULE)


def all_records(runs: Runs) -> tuple[Run, ...]:
    """Every run on record."""
    return tuple(runs.latest(limit=_EVERYTHING))


def note_start(directory: Path, run_id: str, attempt: int) -> None:
    """Write one start down, in a file of its own that nobody else can have made."""
    name = f"{run_id}.{attempt}.{secrets.token_hex(6)}"
    os.close(os.open(directory / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


class StartLog:
    """Starts as lines of one file per process, for jobs too many to give each a file.

    One write(2) to a file opened for appending: a killed process leaves whole lines.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / f"{os.getpid()}-{secrets.token_hex(4)}.starts"
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)

    def note(self, run_id: str, attempt: int) -> None:
        """Write one start down."""
        os.write(self._file, f"{run_id} {attempt} {time.time_ns()}\n".encode())


def starts_in(directory: Path) -> tuple[Start, ...]:
    """Every start that was written down in a directory, in either form."""
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
