"""Measure the overhead of a run: a script through the runner beside a bare `subprocess.run`.

    python -m bench.run_overhead [--runs N]

The same empty bash script is run in three ways, in turns so that noise affects them alike:
`subprocess.run` alone, the script runner (process group, reaper, capture, masking), and a whole run
(claim, heartbeat, runner, output and record stored in a Valkey of its own). Claim and finish are
also measured alone. The table has medians and 99th percentiles in milliseconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.server import valkey
from hermes_celery.clock import ServerClock
from hermes_celery.core.job import JobRequest, JobSpec
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.running.heartbeat import Heartbeats, RunningRun
from hermes_celery.running.orphan_reaper import OrphanReaper
from hermes_celery.running.runner import Runner, RunServices
from hermes_celery.running.script import ScriptRunner
from hermes_celery.running.taken_message import TakenMessage
from hermes_celery.running.worker_machine import WorkerMachine
from hermes_celery.session import Session
from hermes_celery.settings import read_settings
from hermes_celery.store import Claim, RunLimits, Runs
from hermes_celery.wiring.client import open_cron
from hermes_celery.wiring.server import open_database


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=300, help="runs of each way")
    count: int = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as directory, valkey() as url:
        bed = _Bed(Path(directory), url)
        rows = _in_turns(
            {
                "subprocess.run": bed.bare,
                "script runner": bed.script,
                "whole run": bed.whole,
                "claim + finish": bed.claim_and_finish,
            },
            count,
        )
    bare = statistics.median(rows["subprocess.run"])
    print(f"{count} runs each, ms{'':<12}median      p99   over bare")
    for name, times in rows.items():
        median, p99 = statistics.median(times), statistics.quantiles(times, n=100)[98]
        over = f"{median - bare:9.2f}" if name in ("script runner", "whole run") else ""
        print(f"{name:<24}{median:9.2f}{p99:9.2f}   {over}")


class _Bed:
    """A home with one empty script and a client on a server of its own."""

    def __init__(self, home: Path, url: str) -> None:
        (home / "scripts").mkdir()
        self._path = home / "scripts" / "empty.sh"
        self._path.write_text("")
        settings = read_settings({"HERMES_HOME": str(home), "HERMES_REDIS_URL": url})
        self._cron = open_cron(settings)
        self._job = self._cron.add(
            JobRequest(schedule="every 1d", script="empty.sh", no_agent=True)
        )
        self._runs: Runs = self._cron.runs
        database = open_database(settings)
        self._clock = ServerClock(database.now_ms)
        self._script = ScriptRunner(
            WorkerMachine(home=home, environment=dict(os.environ), reaper=OrphanReaper()),
            passthrough=frozenset(),
            timeout_seconds=60,
        )
        self._runner = Runner(
            self._runs,
            heartbeats=Heartbeats(self._runs, clock=self._clock),
            work_for=self._work,
            services=RunServices(limits=RunLimits(database)),
            clock=self._clock,
        )

    def bare(self) -> Callable[[], object]:
        """Return a function that runs the script alone and captures its output."""
        command = ["bash", str(self._path)]
        return lambda: subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=True
        )

    def script(self) -> Callable[[], object]:
        """Return a function that runs the script through the runner, without a store."""
        return lambda: self._script.perform(self._job.spec, Session(), RunningRun())

    def whole(self) -> Callable[[], object]:
        """Return a function that performs a whole run, from the claim to the stored record."""
        run_id = self._cron.run(self._job.id)
        return lambda: self._runner.perform(
            run_id, message=TakenMessage(worker="bench@host"), session=Session()
        )

    def claim_and_finish(self) -> Callable[[], object]:
        """Return a function that claims and finishes a run, without any work."""
        run_id = self._cron.run(self._job.id)

        def both() -> None:
            claim = self._runs.claim(run_id, token="t", now_ms=self._clock.now_ms(), worker="w")
            if not isinstance(claim, Claim):
                raise SystemExit(f"a run could not be claimed: {claim}")
            outcome = Outcome(state=RunState.SUCCEEDED, silent=True)
            self._runs.finish(claim, outcome, now_ms=self._clock.now_ms())

        return both

    def _work(self, _: JobSpec) -> ScriptRunner:
        return self._script


def _in_turns(
    ways: dict[str, Callable[[], Callable[[], object]]], count: int
) -> dict[str, list[float]]:
    rows: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(count):
        for name, prepare in ways.items():
            act = prepare()
            began = time.perf_counter()
            act()
            rows[name].append((time.perf_counter() - began) * 1000)
    return rows


if __name__ == "__main__":
    main()
