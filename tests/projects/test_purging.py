"""Tests that a purge of the queue cancels the runs whose messages it deletes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from hermes_celery.core.run import DeliveryState, RunState
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system


def test_a_purged_run_is_cancelled_and_the_next_occurrence_runs(tmp_path: Path) -> None:
    with Bed("endings", tmp_path) as bed:
        worker = bed.worker("-c", "1", NO_PREFETCH="1")
        bed.await_worker()
        bed.beat()
        bed.await_leader()
        bed.run("careful")
        bed.run("block")
        bed.await_notes("block")
        bed.await_run("careful", lambda run: run.state is RunState.FAILED)
        database = bed.database()

        def is_delivery_queued() -> bool:
            messages = database.call("LRANGE", "celery", 0, -1)
            return any('"deliver-' in message for message in messages)

        eventually(is_delivery_queued, what="the message that delivers the failure")
        asked = [bed.run("plain") for _ in range(3)]
        eventually(lambda: len(waiting(bed, "plain")) == 3, what="their messages")
        eventually(lambda: database.call("LLEN", "celery") >= 5, what="a backlog")
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        assert bed.celery("purge", "-f").wait(timeout=60) == 0
        ended = {run.id: (run.state, run.reason) for run in bed.runs("plain")}
        assert ended == dict.fromkeys(asked, (RunState.CANCELLED, "purged"))
        assert bed.runs("careful")[0].delivery is DeliveryState.FAILED
        assert "its message was purged" in bed.hermes("incidents").stdout
        shown = bed.hermes("runs", "plain").stdout
        assert shown.count("cancelled") == shown.count("purged") == 3
        seen = len(bed.notes("late"))
        bed.worker("-c", "1")
        bed.await_notes("late", seen + 3)
        assert not bed.notes("plain")


def waiting(bed: Bed, job: str) -> list[str]:
    """Return the ids of a job's runs whose messages are on the queue."""
    database = bed.database()
    messages = database.call("LRANGE", "celery", 0, -1)
    return [run.id for run in bed.runs(job) if any(run.id in one for one in messages)]


@pytest.mark.parametrize(
    "command",
    [
        ("-c", "import endings; print(endings.app.control.purge())"),
        ("-m", "celery", "-A", "endings", "amqp", "queue.purge", "celery"),
    ],
)
def test_every_way_to_purge_ends_the_runs(tmp_path: Path, command: tuple[str, ...]) -> None:
    with Bed("endings", tmp_path) as bed:
        bed.beat()
        bed.await_leader()
        asked = bed.run("plain")
        eventually(lambda: waiting(bed, "plain"), what="its message")
        process = bed.start(sys.executable, *command)
        assert process.wait(timeout=60) == 0, bed.log(process)
        (run,) = bed.runs("plain")
        assert (run.id, run.state, run.reason) == (asked, RunState.CANCELLED, "purged")
