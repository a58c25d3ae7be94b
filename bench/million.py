"""Measure the memory of a million jobs and whether operations get slower with their number.

    python -m bench.million [--stored 100 --stored 10000 --stored 1000000] [--json FILE]

For each number of stored jobs, this measures adding one job, adding many, the first page of a list
and a page in the middle. Then it measures the import of a Hermes home, the memory of a job and of a
kept run, and a step of retention with a backlog. Each part has a Valkey of its own (unix socket,
append-only file synced every second).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from bench import options
from bench.server import BenchError, valkey
from hermes_celery.client import Client
from hermes_celery.core.built_message import BuiltMessage
from hermes_celery.core.job import Job, JobRequest, UnreadableJob
from hermes_celery.core.job_checks import define
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.instant import to_ms
from hermes_celery.interop.hermes.home import import_jobs
from hermes_celery.scheduling.tick import Ticker
from hermes_celery.settings import read_settings
from hermes_celery.store import Claim, Database, DueIndex, History, Jobs, Retention, Runs, Write
from hermes_celery.wiring.client import open_cron
from hermes_celery.wiring.server import open_database

_SCRIPT = JobRequest(
    schedule="*/5 * * * *", script="disk.sh", no_agent=True, timezone="Europe/Berlin"
)
_PROMPT = JobRequest(
    schedule="0 9 * * 1-5",
    prompt=("Summarise the news of the day and send me what matters. " * 4)[:200],
    deliver="telegram",
    timezone="Europe/Berlin",
)
#: Far in the future, so that nothing is due during the measurement.
_START = datetime(2097, 1, 1, tzinfo=UTC)
_OUTPUT = b"all is well: 12 of 12 checks passed\n"
_SINGLE_ADDS = 300
_BULK = 10_000
_LISTS = 50
_LISTED = 100
_FILLED_AT_ONCE = 10_000
_MEMORY_JOBS = 20_000
_RUN_JOBS = 100
_ROUNDS = 100
_KEPT_RUNS = 10
#: Commands from this many microseconds on are in the server's slow log.
_SLOW_US = 500


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of the table."""

    what: str
    #: Number of jobs or runs in this measurement.
    count: int
    value: float
    unit: str


class Bed(msgspec.Struct, frozen=True, kw_only=True):
    """A server and a client of it."""

    cron: Client
    database: Database

    def memory(self) -> int:
        """Return the server's used memory in bytes."""
        return int(self.database.call("INFO", "memory")["used_memory"])

    def longest_ms(self) -> float:
        """Return the ms of the slowest command since `watch_for_slow`; 0 if none took 0.5 ms."""
        entries = self.database.client.slowlog_get(128)
        return max((entry["duration"] / 1000 for entry in entries), default=0.0)

    def watch_for_slow(self) -> None:
        """Start to log slow commands on the server."""
        self.database.call("CONFIG", "SET", "slowlog-log-slower-than", _SLOW_US)
        self.database.call("SLOWLOG", "RESET")


@contextmanager
def fresh_bed() -> Iterator[Bed]:
    """Yield an empty server and a client of it."""
    with valkey() as url, tempfile.TemporaryDirectory(prefix="hermes-bench-") as home:
        settings = read_settings(
            {"HERMES_HOME": home, "HERMES_REDIS_URL": url, "HERMES_TIMEZONE": "UTC"}
        )
        database = open_database(settings)
        try:
            yield Bed(cron=open_cron(settings), database=database)
        finally:
            database.close()


def fill(bed: Bed, count: int, *, request: JobRequest = _SCRIPT) -> None:
    """Store `count` jobs with distinct ids and names that are not due, oldest first."""
    spec, _ = define(request, job_id="0" * 12, now=_START, default_timezone="UTC")
    due = _START + timedelta(days=1)
    for start in range(0, count, _FILLED_AT_ONCE):
        writes = []
        for number in range(start, min(start + _FILLED_AT_ONCE, count)):
            named = msgspec.structs.replace(
                spec,
                id=f"{number:012x}",
                name=f"job number {number}",
                created_ms=spec.created_ms - count + number,
            )
            writes.append(Write(job=Job(spec=named, next_run_at=due + timedelta(seconds=number))))
        bad = [one for one in bed.cron.jobs.write_many(writes) if not isinstance(one, Job)]
        if bad:
            raise BenchError(f"{len(bad)} jobs were not stored; first: {bad[0]}")


# --- adding and listing beside many stored jobs -------------------------------------------------


def with_stored(stored: int) -> list[Row]:
    """Measure adding and listing with that many stored jobs."""
    with fresh_bed() as bed:
        fill(bed, stored)
        jobs = bed.cron.jobs
        adding = [
            _us(partial(bed.cron.add, msgspec.structs.replace(_SCRIPT, name=f"one {number}"),
                        check_files=False))
            for number in range(_SINGLE_ADDS)
        ]  # fmt: skip
        middle = f"{stored // 2:012x}"
        rows = [
            ("memory of the server", bed.memory() / 2**20, "MiB"),
            ("add one job", median(adding), "µs"),
            ("list the first 100", _listing(lambda: jobs.matching()), "ms"),
            ("list 100 from the middle", _listing(lambda: jobs.matching(after=middle)), "ms"),
            ("list 100 by name", _listing(lambda: jobs.matching(name="job number 5")), "ms"),
            *_bulk(bed),
        ]
    return [Row(what=w, count=stored, value=value, unit=unit) for w, value, unit in rows]


def _listing(matching: Callable[[], Iterator[Job | UnreadableJob]]) -> float:
    return median(_us(lambda: list(islice(matching(), _LISTED))) for _ in range(_LISTS)) / 1000


def _bulk(bed: Bed) -> list[tuple[str, float, str]]:
    requests = [msgspec.structs.replace(_PROMPT, name=f"many {n}") for n in range(_BULK)]
    bed.watch_for_slow()
    took = _us(lambda: bed.cron.add_many(requests, check_files=False)) / 1e6
    return [
        ("add_many, 10,000 jobs", _BULK / took, "jobs/s"),
        ("longest command meanwhile", bed.longest_ms(), "ms"),
    ]


# --- importing --------------------------------------------------------------------------------


def importing(count: int) -> list[Row]:
    """Measure the import of a Hermes home with that many jobs, and a second import."""
    with fresh_bed() as bed, tempfile.TemporaryDirectory(prefix="hermes-bench-") as directory:
        file = Path(directory) / "jobs.json"
        file.write_text(json.dumps({"jobs": [_record(number) for number in range(count)]}))
        rows = []
        for what, imported in (("import", count), ("import again: nothing changes", 0)):
            began = time.perf_counter()
            report = import_jobs(bed.cron, file, timezone="Europe/Berlin")
            took = time.perf_counter() - began
            if (len(report.imported), len(report.refused)) != (imported, 0):
                raise BenchError(f"{len(report.imported)} imported: {report.refused[:1]}")
            rows.append(Row(what=what, count=count, value=took, unit="s"))
        return rows


def _record(number: int) -> dict[str, Any]:
    """Return a job as Hermes stores it."""
    expression = f"{number % 60} {number % 24} * * *"
    return {
        "id": f"{number:012x}",
        "name": f"job {number}",
        "prompt": _PROMPT.prompt,
        "skills": [],
        "schedule": {"kind": "cron", "expr": expression, "display": expression},
        "schedule_display": expression,
        "repeat": {"times": None, "completed": 3},
        "enabled": True,
        "state": "scheduled",
        "created_at": "2026-11-23T05:44:00+01:00",
        "next_run_at": "2097-11-23T05:44:00+01:00",
        "last_run_at": "2026-11-22T05:44:00+01:00",
        "last_status": "ok",
        "deliver": "telegram",
    }


# --- memory and retention ---------------------------------------------------------------------


def memory_of_jobs() -> list[Row]:
    """Measure the server's memory per job, in bytes."""
    rows = []
    for what, request in (("script job", _SCRIPT), ("job with a prompt of 200", _PROMPT)):
        with fresh_bed() as bed:
            before = bed.memory()
            fill(bed, _MEMORY_JOBS, request=request)
            value = (bed.memory() - before) / _MEMORY_JOBS
        rows.append(Row(what=what, count=_MEMORY_JOBS, value=value, unit="bytes"))
    return rows


class _Plain:
    """Messages without Celery; no worker reads them here."""

    def queue(self, spec: object) -> str:
        """Return the name of the only queue."""
        return "bench"

    def runs_again(self, spec: object) -> bool:
        """Return False, since there is no task."""
        return False

    def message(
        self, spec: object, *, run_id: str, due_ms: int, attempt: int = 1, push: int = 0
    ) -> bytes:
        """Return the run id."""
        return run_id.encode()

    def build(
        self, spec: object, *, run_id: str, due_ms: int, attempt: int = 1, push: int = 0
    ) -> BuiltMessage:
        """Return the run id."""
        return BuiltMessage(queue="bench", message=run_id.encode())


def kept_runs() -> list[Row]:
    """Measure the server's memory per kept run and the steps that delete most of them."""
    with fresh_bed() as bed:
        count = _RUN_JOBS * _ROUNDS
        jobs = Jobs(bed.database)
        spec, first = define(
            JobRequest(schedule="every 1m", script="disk.sh", no_agent=True, name="n"),
            job_id="0" * 12,
            now=_START,
            default_timezone="UTC",
        )
        for number in range(_RUN_JOBS):
            named = msgspec.structs.replace(spec, id=f"{number:012x}", name=f"job {number}")
            jobs.add(Job(spec=named, next_run_at=first))
        bed.database.call("SET", bed.database.keys.term, 1)
        before = bed.memory()
        for number in range(1, _ROUNDS + 1):
            _run_all(bed.database, to_ms(_START + timedelta(minutes=number)))
        bytes_each = (bed.memory() - before) / count
        steps = _trim(bed.database)
    return [
        Row(what="kept run, 36 bytes of output", count=count, value=bytes_each, unit="bytes"),
        Row(what="step of retention, median", count=count, value=median(steps), unit="ms"),
        Row(what="step of retention, longest", count=count, value=max(steps), unit="ms"),
    ]


def _run_all(database: Database, now_ms: int) -> None:
    """Dispatch, claim and finish one run of each job."""
    runs = Runs(database)
    Ticker(DueIndex(database), _Plain()).tick(token=1, now_ms=now_ms)
    for run_id in database.call("RPOP", "bench", _RUN_JOBS) or ():
        claim = runs.claim(run_id, token="t" * 32, now_ms=now_ms, worker="celery@host:12345")
        if not isinstance(claim, Claim):
            raise BenchError(f"a run could not be claimed: {claim}")
        outcome = Outcome(state=RunState.SUCCEEDED, output=_OUTPUT, exit_code=0)
        runs.finish(claim, outcome, now_ms=now_ms)


def _trim(database: Database) -> list[float]:
    """Run retention until it is done; return the ms of each step."""
    history = History(database, retention=Retention(runs_per_job=_KEPT_RUNS))
    now_ms, steps, forgotten = to_ms(_START + timedelta(hours=2)), [], 0
    while True:
        began = time.perf_counter()
        step = history.trim(now_ms).runs
        if not step:
            break
        steps.append((time.perf_counter() - began) * 1000)
        forgotten += step
    if forgotten != _RUN_JOBS * (_ROUNDS - _KEPT_RUNS):
        raise BenchError(f"retention deleted {forgotten} runs")
    return steps


# --- the command ------------------------------------------------------------------------------


def _us(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1e6


def _print(rows: Sequence[Row]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("what")
    for column in ("count", "value"):
        table.add_column(column, justify="right")
    table.add_column("unit")
    for row in rows:
        digits = 0 if row.value >= 100 else 2
        table.add_row(row.what, f"{row.count:,}", f"{row.value:,.{digits}f}", row.unit)
    Console(width=100).print(table)


@click.command(help=__doc__)
@options.counts("--stored", default=(10_000, 100_000), what="Number of stored jobs")
@click.option(
    "--imported",
    type=int,
    default=100_000,
    show_default=True,
    help="Number of imported Hermes jobs.",
)
@options.json_path
def main(stored: tuple[int, ...], imported: int, json_path: Path | None) -> None:
    """Measure and print a table."""
    rows = [row for count in stored for row in with_stored(count)]
    rows += [*importing(imported), *memory_of_jobs(), *kept_runs()]
    _print(rows)
    options.write_figures(json_path, rows)


if __name__ == "__main__":
    main()
