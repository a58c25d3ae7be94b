"""Measure the server's memory over many runs: `python -m bench.retention [--runs 1000000]`.

A hundred jobs run again and again, each with a record and a line of output, while retention trims
as in a beat (one small step per second of scheduled time). The table has the server's memory after
each tenth of the runs; it must not grow.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta

import msgspec

from bench.server import valkey
from hermes_celery.core.built_message import BuiltMessage
from hermes_celery.core.job import Job, JobRequest
from hermes_celery.core.job_checks import define
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.instant import to_ms
from hermes_celery.scheduling.tick import Ticker
from hermes_celery.store import Claim, Database, DueIndex, History, Jobs, Retention, Runs, connect
from hermes_celery.store.keys import Keys

_JOBS = 100
_START = datetime(2027, 1, 1, tzinfo=UTC)
_OUTPUT = b"all is well: 12 of 12 checks passed\n"


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


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100_000, help="number of runs")
    runs = parser.parse_args().runs
    with valkey(aof=False) as url:
        database = Database(connect(url), keys=Keys(namespace="bench"))
        _fill(database)
        print(f"{'runs':>10}  {'kept':>7}  {'memory':>10}")
        rounds = runs // _JOBS
        for number in range(1, rounds + 1):
            _round(database, number)
            if number % max(rounds // 10, 1) == 0:
                _line(database, number * _JOBS)


def _fill(database: Database) -> None:
    jobs = Jobs(database)
    spec, first = define(
        JobRequest(schedule="every 1m", prompt="x", name="n"),
        job_id="0" * 12,
        now=_START,
        default_timezone="UTC",
    )
    for number in range(_JOBS):
        named = msgspec.structs.replace(spec, id=f"{number:012x}", name=f"job {number}")
        jobs.add(Job(spec=named, next_run_at=first))
    database.call("SET", database.keys.term, 1)


def _round(database: Database, number: int) -> None:
    """Run each job once, then trim as a beat would in that minute."""
    now_ms = to_ms(_START + timedelta(minutes=number))
    runs = Runs(database)
    Ticker(DueIndex(database), _Plain()).tick(token=1, now_ms=now_ms)
    for run_id in database.call("RPOP", "bench", _JOBS) or ():
        claim = runs.claim(run_id, token="t", now_ms=now_ms, worker="bench@host:1")
        if isinstance(claim, Claim):
            outcome = Outcome(state=RunState.SUCCEEDED, output=_OUTPUT, exit_code=0)
            runs.finish(claim, outcome, now_ms=now_ms)
    history = History(database, retention=Retention())
    while history.trim(now_ms).has_more:
        pass


def _line(database: Database, done: int) -> None:
    memory = database.call("INFO", "memory")
    kept = database.call("ZCARD", database.keys.runs)
    print(f"{done:>10,}  {kept:>7,}  {memory['used_memory'] / 2**20:>7.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
