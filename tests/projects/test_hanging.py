"""Tests a task whose publishing hangs: its own job waits, but no other job does."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from hermes_celery.core.run import RunState
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system


def test_a_hanging_apply_async_delays_no_other_job(tmp_path: Path) -> None:
    with Bed("hanging", tmp_path) as bed:
        bed.worker()
        beats = [bed.beat(), bed.beat()]
        bed.await_leader()
        first = bed.await_run("hangs", lambda run: "did not return" in (run.error or ""))
        database = bed.database()
        term = database.call("GET", database.keys.term)
        assert first.state is RunState.FAILED
        bed.await_run("hangs", lambda run: "still hangs" in (run.error or ""))
        bed.await_notes("well", len(bed.notes("well")) + 3)
        assert database.call("GET", database.keys.term) == term, "the leader did not change"
        assert len(bed.notes("asked")) == 6, "it is called once for each job"
        at = [float(note[-1]) for note in bed.notes("well")]
        assert max(b - a for a, b in pairwise(at)) < 2, "no occurrence came a second late"
        assert not [run for run in bed.runs("well") if run.state is RunState.SKIPPED]
        told = "".join(map(bed.log, beats))
        assert "job.hangs job=hangs" in told, told
        eventually(
            lambda: "job hangs: its apply_async did not return" in bed.hermes("incidents").stdout,
            what="an incident that names the job",
        )
        # It is published again as soon as the first call has returned.
        assert not bed.notes("hangs")
        (bed.place / "go").touch()
        bed.await_notes("hangs", 2)


def test_a_slow_apply_async_is_waited_for(tmp_path: Path) -> None:
    with Bed("hanging", tmp_path) as bed:
        bed.environment["SECONDS"] = "0.8"
        bed.up()
        bed.await_notes("hangs", 12)
        runs = {run.state for run in bed.runs("hangs")}
        assert RunState.FAILED not in runs
        assert not [run for run in bed.runs("well") if run.state is RunState.SKIPPED]
