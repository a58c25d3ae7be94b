"""Tests that an entry of `beat_schedule` behaves as it does under Celery's own beat."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from hermes_celery.core.run import RunState
from tests.projects.bed import Bed

pytestmark = pytest.mark.system


def test_runs_of_an_entry_overlap_and_a_warm_shutdown_waits_for_them(tmp_path: Path) -> None:
    """This also holds if the entry was stored with overlap `skip`, as version 0.1.0 did."""
    with Bed("manners", tmp_path) as bed:
        (tmp_path / "results").mkdir()
        bed.environment |= {"RESULTS": str(tmp_path / "results"), "HERMES_CELERY_GRACE": "1"}
        worker = bed.worker("-c", "6")
        bed.beat()
        first = float(bed.await_notes("busy", 1)[0][-1])
        starts = [float(row[-1]) for row in bed.await_notes("busy", 7)]
        assert starts[6] - first < 22
        assert len(bed.notes("calm")) <= 4
        assert len(bed.notes("ours")) <= 4
        jobs = {job["name"]: job for job in json.loads(bed.hermes("list", "--json").stdout)}
        assert jobs["celery.backend_cleanup"]["schedule"]["expr"] == "0 4 * * *"
        assert bed.hermes("run", "celery.backend_cleanup").returncode == 0
        bed.await_run("celery.backend_cleanup", lambda run: run.state is RunState.SUCCEEDED)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=40) == 0, bed.log(worker)
        for word in ("busy", "calm", "ours"):
            assert len(bed.notes(word)) == len(bed.notes(f"{word}-ended")), word
            assert {run.state for run in bed.runs(word)} <= {
                RunState.SUCCEEDED, RunState.SKIPPED, RunState.QUEUED
            }  # fmt: skip
