"""Ticks hermes-agent's cron with no-op work: `python -m ...hermes_tick path|idle N DIR`.

The tick runs under hermes-agent's own file lock, as its gateway calls it, with its own thread pool,
run record, stored output and job store in HERMES_HOME; only `run_job` is replaced. `path` writes
stamps to DIR: when the tick begins, and when each job was advanced, handed to the pool, started and
finished. `idle` writes the milliseconds of ticks with nothing due.
"""

from __future__ import annotations

import copy
import json
import sys
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cron import jobs, scheduler
from hermes_time import now

from bench.peers.inside.stamps import Stamps

_WARM_UP = 4
_OVERDUE = timedelta(seconds=1)
_TICKS = 10
_PAUSE_SECONDS = 0.25


def store(count: int, *, next_run_at: datetime) -> None:
    """Replace the store by `count` hourly jobs, copied from one that hermes-agent's API made."""
    jobs.save_jobs([])
    made: dict[str, Any] = jobs.create_job("no-op", "every 1h", name="no-op", deliver="local")
    copies = [copy.deepcopy(made) for _ in range(count)]
    for job in copies:
        job.update(id=uuid.uuid4().hex[:12], next_run_at=next_run_at.isoformat())
    jobs.save_jobs(copies)


def stub_work(started: Stamps) -> None:
    """Replace `run_job` by a function that returns one line of output at once."""

    def run_job(job: object, **_: object) -> tuple[bool, str, str, None]:
        started.stamp()
        return True, "done\n", "done", None

    scheduler.run_job = run_job


def stamp_after(name: str, stamps: Stamps) -> None:
    """Wrap a step of the scheduler so that each return leaves a stamp."""
    step: Callable[..., object] = getattr(scheduler, name)

    def stamped(*arguments: object, **named: object) -> object:
        answer = step(*arguments, **named)
        stamps.stamp()
        return answer

    setattr(scheduler, name, stamped)


def tick() -> None:
    """Run one tick as the gateway's ticker calls it."""
    scheduler.tick(verbose=False, sync=False)


def measure_path(count: int, directory: Path) -> None:
    """Warm up, then run one tick with `count` due jobs until the last has finished."""
    stub_work(Stamps(directory / "warm_started"))
    store(_WARM_UP, next_run_at=now() - _OVERDUE)
    scheduler.tick(verbose=False, sync=True)
    stub_work(Stamps(directory / "started"))
    finished = Stamps(directory / "finished")
    for step, name in (
        ("advance_next_run", "advanced"),
        ("create_execution", "dispatched"),
        ("finish_execution", "finished"),
    ):
        stamp_after(step, Stamps(directory / name))
    store(count, next_run_at=now() - _OVERDUE)
    Stamps(directory / "began").stamp()
    tick()
    while finished.count() < count:
        time.sleep(0.01)


def measure_idle(count: int, directory: Path) -> None:
    """Time ticks over `count` jobs, none of them due; the first tick only warms up."""
    store(count, next_run_at=now() + timedelta(hours=1))
    took = []
    for _ in range(_TICKS):
        began = time.perf_counter()
        tick()
        took.append((time.perf_counter() - began) * 1000)
        time.sleep(_PAUSE_SECONDS)
    (directory / "idle.json").write_text(json.dumps(took[1:]))


if __name__ == "__main__":
    measure = {"path": measure_path, "idle": measure_idle}[sys.argv[1]]
    measure(int(sys.argv[2]), Path(sys.argv[3]))
