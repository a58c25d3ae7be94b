"""A test bed for benchmarks: a fresh server and home, functions to store jobs and read run times.

This module measures nothing; see `bench.whole_path` and `bench.peers`.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import msgspec

from bench.server import BenchError, child, valkey, wait_until
from hermes_celery.core.job import Job, JobRequest, new_job_id
from hermes_celery.core.job_checks import define
from hermes_celery.core.run import RunState, due_ms_of
from hermes_celery.instant import from_ms
from hermes_celery.settings import Settings, read_settings
from hermes_celery.store import Database, Jobs, Runs, Write
from hermes_celery.wiring.server import open_database

SLOTS = 4
#: Longest wait for all runs to finish.
DONE_SECONDS = 600.0
_PAGE = 1000
_SCRIPT = "#!/bin/sh\necho done\n"


class Bed(msgspec.Struct, frozen=True, kw_only=True):
    """A fresh server and home, with the settings and environment of its processes."""

    home: Path
    url: str
    environment: Mapping[str, str]
    settings: Settings
    database: Database

    @property
    def log(self) -> Path:
        """Log file of the bed's processes."""
        return self.home / "bench.log"


@contextmanager
def fresh_bed(*, fsync: str = "everysec") -> Iterator[Bed]:
    """Start a server, create a home with one script, and yield a bed with settings for both."""
    with ExitStack() as stack:
        url = stack.enter_context(valkey(fsync=fsync))
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hermes-bench-")))
        (home / "scripts").mkdir()
        (home / "scripts" / "noop.sh").write_text(_SCRIPT)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HERMES_")}
        ours = {
            "HERMES_HOME": str(home),
            "HERMES_REDIS_URL": url,
            "HERMES_CRON_MAX_WORKERS": str(SLOTS),
            "HERMES_TIMEZONE": "UTC",
        }
        settings = read_settings(ours)
        database = open_database(settings)
        stack.callback(database.close)
        stack.enter_context(_events_logged(home / "beat.log"))
        yield Bed(
            home=home,
            url=url,
            environment={**kept, **ours},
            settings=settings,
            database=database,
        )


@contextmanager
def _events_logged(path: Path) -> Iterator[None]:
    """Log this process's ticks to a file as a beat does, since logging is part of the cost."""
    logger, handler = logging.getLogger("hermes_celery"), logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("[%(asctime)s: %(levelname)s/%(process)d] %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
        handler.close()


def celery_process(bed: Bed, app: str, *arguments: str) -> AbstractContextManager[object]:
    """Start a Celery process as a user would; end it when the block ends."""
    command = [sys.executable, "-m", "celery", "-A", app, *arguments]
    return child(command, environment=bed.environment, log=bed.log)


def store_jobs(bed: Bed, due_ms: Sequence[int]) -> list[str]:
    """Store an hourly script job for each due time (Unix ms) and return the ids."""
    now = from_ms(bed.database.now_ms())
    request = JobRequest(schedule="every 1h", script="noop.sh", no_agent=True, name="no-op")
    spec, _ = define(request, job_id=new_job_id(), now=now, default_timezone="UTC")
    jobs = Jobs(bed.database)
    ids: list[str] = []
    for start in range(0, len(due_ms), _PAGE):
        page = [
            Job(spec=msgspec.structs.replace(spec, id=new_job_id()), next_run_at=from_ms(at_ms))
            for at_ms in due_ms[start : start + _PAGE]
        ]
        written = jobs.write_many([Write(job=job) for job in page])
        if refused := [job for job in written if not isinstance(job, Job)]:
            raise BenchError(f"{len(refused)} jobs were not stored: {refused[0]}")
        ids += [job.id for job in page]
    return ids


def run_times(bed: Bed, run_ids: Sequence[str]) -> list[dict[str, int]]:
    """Return the times in the records of finished runs, Unix ms of the server's clock.

    Raises BenchError unless every run has succeeded and its output is stored.
    """
    keys, found = bed.database.keys, []
    for start in range(0, len(run_ids), _PAGE):
        page = run_ids[start : start + _PAGE]
        rows = [bed.database.hash(keys.run(run_id)) for run_id in page]
        kept = bed.database.call("EXISTS", *(keys.output(run_id) for run_id in page))
        bad = [row.get("error", row) for row in rows if row.get("state") != RunState.SUCCEEDED]
        if bad or kept != len(page):
            raise BenchError(
                f"{len(bad)} runs did not succeed, {kept} outputs stored; first: {bad[:1]}"
            )
        found += [
            {
                "due_ms": due_ms_of(run_id),
                **{k: int(v) for k, v in row.items() if k.endswith("_ms")},
            }
            for run_id, row in zip(page, rows, strict=True)
        ]
    return found


def wait_until_done(bed: Bed) -> None:
    """Wait until no run is queued or running."""
    runs = Runs(bed.database)
    wait_until(
        lambda: not any(runs.counts().values()),
        what="all runs have finished",
        seconds=DONE_SECONDS,
        poll=0.02,
    )
