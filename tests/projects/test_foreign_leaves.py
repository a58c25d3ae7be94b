"""A worker that knows nothing of ours runs beside ours for a while: nothing is executed twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hermes_celery.core.run import RunState
from tests.projects.bed import Bed
from tests.projects.test_foreign import make_due, plain
from tests.support import eventually

pytestmark = pytest.mark.system


def test_what_a_worker_took_that_joined_ours_and_left_is_not_executed_again(tmp_path: Path) -> None:
    """As in a rolling restart of workers that know nothing of ours."""
    with Bed("foreign", tmp_path) as bed:
        bed.worker("-Q", "mixed", "-n", "ours@host")
        bed.beat()
        bed.await_worker()
        bed.await_leader()
        bed.await_notes("mixed-ours", 2)
        theirs = plain(bed, "mixed")
        database = bed.database()
        eventually(
            lambda: "mixed" in database.call("HGETALL", database.keys.foreign),
            what="that the leader has seen the other worker",
        )
        # Two workers that ask by turns of a second may always take the same turn: ask in between.
        eventually(
            lambda: bed.run("mixed") and bed.notes("mixed-theirs"), what="a run that it took"
        )
        os.killpg(theirs.pid, signal.SIGKILL)
        theirs.wait(timeout=30)
        taken = [note[1] for note in bed.notes("mixed-theirs")]
        done = len(bed.notes("mixed-ours"))
        bed.await_notes("mixed-ours", done + 2)
        for run in bed.runs("mixed"):
            if run.id in taken:
                assert run.state is RunState.QUEUED
                make_due(bed, run)

        def states() -> set[RunState]:
            return {run.state for run in bed.runs("mixed") if run.id in taken}

        eventually(lambda: states() == {RunState.SENT}, what="the end of each run that it took")
        assert not [note for note in bed.notes("mixed-ours") if note[1] in taken]
        assert len(set(taken)) == len(taken) == len(bed.notes("mixed-theirs"))
        assert {run.state for run in bed.runs("mixed")} <= {
            RunState.SENT, RunState.SUCCEEDED, RunState.QUEUED, RunState.RUNNING
        }  # fmt: skip
