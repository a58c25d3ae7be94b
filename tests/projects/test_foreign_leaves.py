"""Tests a worker without the package that joins and leaves: no message is executed twice."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hermes_celery.core.run import RunState
from tests.projects.bed import Bed
from tests.projects.test_foreign import foreign_worker, make_due
from tests.support import eventually

pytestmark = pytest.mark.system


def test_messages_taken_by_a_foreign_worker_that_left_are_not_executed_again(
    tmp_path: Path,
) -> None:
    """This happens in a rolling restart of workers that do not use the package."""
    with Bed("foreign", tmp_path) as bed:
        bed.worker("-Q", "mixed", "-n", "ours@host")
        bed.beat()
        bed.await_worker()
        bed.await_leader()
        bed.await_notes("mixed-ours", 2)
        theirs = foreign_worker(bed, "mixed")
        database = bed.database()
        eventually(
            lambda: "mixed" in database.call("HGETALL", database.keys.foreign),
            what="the leader's note of the other worker",
        )
        before = len(bed.notes("mixed-theirs"))
        # Two workers that poll once a second may keep the same order, so add runs in between.
        eventually(
            lambda: bed.run("mixed") and len(bed.notes("mixed-theirs")) > before,
            what="a run taken by the foreign worker",
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

        eventually(lambda: states() == {RunState.SENT}, what="the sent state of each run it took")
        assert not [note for note in bed.notes("mixed-ours") if note[1] in taken]
        assert len(set(taken)) == len(taken) == len(bed.notes("mixed-theirs"))
        assert {run.state for run in bed.runs("mixed")} <= {
            RunState.SENT, RunState.SUCCEEDED, RunState.QUEUED, RunState.RUNNING
        }  # fmt: skip
