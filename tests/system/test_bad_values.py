"""Tests that a beat and a worker survive all bad values at once and keep running a healthy job."""

from __future__ import annotations

from pathlib import Path

import pytest

from hermes_celery.client import Client
from hermes_celery.core.run import RunState
from hermes_celery.store import Database
from tests.store.bad_values import BAD_VALUES, plant
from tests.support import eventually
from tests.system.conftest import Processes, script, script_job

pytestmark = pytest.mark.system


def plant_all(database: Database, *, wave: int) -> None:
    for name in BAD_VALUES:
        plant(database, name, now_ms=database.now_ms(), wave=wave)


def succeeded(cron: Client, job_id: str) -> int:
    runs = cron.latest_runs(job_id, state=RunState.SUCCEEDED, limit=100)
    return len(runs)


def test_a_beat_and_a_worker_survive_all_bad_values(
    processes: Processes, cron: Client, valkey: Database, home: Path
) -> None:
    healthy = cron.add(script_job("every 1s", script(home, "hi.sh", "echo hi")))
    plant_all(valkey, wave=0)
    beat, worker = processes.celery("beat"), processes.celery("worker")
    eventually(lambda: succeeded(cron, healthy.id) >= 3, what="three runs of the healthy job")
    # Plant them again while beat and worker are running.
    plant_all(valkey, wave=1)
    before = succeeded(cron, healthy.id)
    eventually(lambda: succeeded(cron, healthy.id) >= before + 8, what="eight more runs")
    assert (beat.poll(), worker.poll()) == (None, None), processes.log(beat) + processes.log(worker)
    # Expected errors are logged without a traceback.
    assert "Traceback" not in processes.log(beat)
    for command in (("list", "--all"), ("runs",), ("status",), ("incidents",), ("doctor",)):
        told = processes.hermes(*command)
        assert "Traceback" not in told.stderr, told.stderr
        assert told.returncode == 0 or command == ("doctor",), told.stderr
    assert "newer version" in processes.hermes("list", "--all").stdout
    assert "hermes-celery remove" in processes.hermes("incidents").stdout
