"""hermes-agent's own cron: one process, a JSON file and a thread pool, without beat and Redis."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.bed import SLOTS
from bench.peers.inside.stamps import Stamps
from bench.peers.install import HERMES, ROOT
from bench.peers.measure import Span, Times, watch
from bench.server import BenchError, child, last_lines, run_to_end, wait_until

_MODULE = "bench.peers.inside.hermes_tick"
#: Steps for which the process in `inside/` leaves stamps.
_STAMPS = ("began", "advanced", "dispatched", "started", "finished")
_POLL_SECONDS = 0.01
_BEGIN_SECONDS = 120.0
_IDLE_SECONDS = 600.0


class HermesAgent:
    """Measures hermes-agent with `run_job` stubbed."""

    idles = "60 s"

    def __init__(self, *, version: str) -> None:
        self.name = f"hermes-agent {version}"

    def measure(self, count: int, *, limit_seconds: float) -> Times:
        """Measure both spans in one tick over `count` due jobs."""
        with _home() as home:
            log, stamps = home / "log", {name: Stamps(home / name) for name in _STAMPS}
            command = _command("path", count, home)
            with child(command, environment=_environment(home), log=log) as process:

                def begun() -> bool:
                    if process.poll() is not None:
                        raise BenchError(f"hermes-agent exited too early: {last_lines(log)}")
                    return stamps["began"].count() > 0

                wait_until(begun, what="hermes-agent begins its tick", seconds=_BEGIN_SECONDS)
                began = stamps["began"].read()[0]
                watch(
                    stamps["finished"].count,
                    wanted=count,
                    since=began,
                    limit_seconds=limit_seconds,
                    poll_seconds=_POLL_SECONDS,
                )
            instants = {name: [i - began for i in stamps[name].read()] for name in _STAMPS}
        runs = _span(count, instants["started"], instants["finished"])
        return Times(
            dispatched=_span(count, instants["dispatched"], instants["dispatched"]),
            runs=runs,
            note="" if runs.last_ms else f"advanced {len(instants['advanced']):,} schedules",
        )

    def idle_ticks(self, stored: int) -> list[float]:
        """Return the milliseconds of single ticks with `stored` jobs, none of them due."""
        with _home() as home:
            run_to_end(
                _command("idle", stored, home),
                environment=_environment(home),
                log=home / "log",
                seconds=_IDLE_SECONDS,
            )
            took: list[float] = json.loads((home / "idle.json").read_text())
            return took


def _span(wanted: int, begins: list[float], ends: list[float]) -> Span:
    """Return stamps (seconds since the tick began) as a span, unfinished if ends are missing."""
    return Span(
        wanted=wanted,
        reached=len(ends),
        first_ms=begins[0] * 1000 if begins else None,
        last_ms=ends[-1] * 1000 if len(ends) >= wanted else None,
    )


@contextmanager
def _home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hermes-bench-") as directory:
        yield Path(directory)


def _command(part: str, count: int, home: Path) -> list[str]:
    return [HERMES.python, "-m", _MODULE, part, str(count), str(home)]


def _environment(home: Path) -> Mapping[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HERMES_")}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "HERMES_HOME": str(home / "hermes"),
        "HERMES_TIMEZONE": "UTC",
        # 0.19.0 reads this name; it has no HERMES_CRON_MAX_WORKERS.
        "HERMES_CRON_MAX_PARALLEL": str(SLOTS),
    }
