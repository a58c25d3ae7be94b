"""Tests tasks executed by workers without the package: each occurrence is executed exactly once.

These tests run real workers. `tests/store/test_foreign_workers.py` tests waits of minutes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes_celery.core.run import Run, RunState
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    with Bed("foreign", tmp_path) as bed:
        yield bed


def foreign_worker(
    bed: Bed, *queues: str, app: str = "svc", name: str = "svc@host"
) -> subprocess.Popen[bytes]:
    """Start a worker that does not use the package."""
    return bed.start(
        sys.executable, "-m", "celery", "-A", app, "worker", "-l", "INFO", "-c", "2",
        "-n", name, "--without-mingle", "-Q", ",".join(queues),
    )  # fmt: skip


def sent(bed: Bed, job: str) -> list[Run]:
    bed.await_run(job, lambda run: True)
    return [run for run in bed.runs(job) if run.state is RunState.SENT]


def make_due(bed: Bed, run: Run) -> None:
    """Make a queued run overdue, as it would be a minute after it was pushed."""
    database = bed.database()
    database.call("ZADD", database.keys.queued, "XX", database.now_ms() - 1, run.id)


def test_a_worker_without_the_hooks_executes_each_occurrence_once(bed: Bed) -> None:
    """Both another service, and the same project with a worker module that lacks `Cron(app)`."""
    foreign_worker(bed, "svc")
    foreign_worker(bed, "shop", app="without", name="shop@host")
    bed.beat()
    bed.await_leader()
    bed.await_notes("tick", 6)
    first = bed.await_run("tick", lambda run: "taken from queue" in (run.reason or ""))
    assert first.state is RunState.SENT
    eventually(lambda: len(sent(bed, "tick")) >= 6, what="six sent runs")
    bed.await_notes("forgotten", 6)
    ids = [note[1] for note in bed.notes() if note[0] in ("tick", "forgotten")]
    assert len(ids) == len(set(ids))
    assert sent(bed, "forgotten")
    assert {run.state for run in bed.runs("tick")} <= {RunState.SENT, RunState.SKIPPED}
    listed = bed.hermes("list").stdout
    assert "sent" in next(line for line in listed.splitlines() if " tick " in line)
    status = bed.hermes("status").stdout
    assert "queue 'svc' is consumed by svc@host without Cron(app)" in status
    told = bed.hermes("doctor").stdout
    assert "none with Cron(app); without it: shop@host, svc@host" in told
    assert "queue 'svc' is consumed by svc@host without Cron(app)" in told
    database = bed.database()
    eventually(
        lambda: "unfollowed-svc" in database.call("ZRANGE", database.keys.incidents, 0, -1),
        what="an incident",
    )
    by_hand = bed.hermes("run", "tick", "--wait")
    assert by_hand.returncode == 0, by_hand.stderr
    assert "tick: sent" in by_hand.stderr


def test_a_worker_with_the_hooks_executes_sent_runs_once_and_their_retries(bed: Bed) -> None:
    theirs = foreign_worker(bed, "svc", "both")
    bed.beat()
    bed.await_leader()
    eventually(lambda: len(sent(bed, "both")) >= 2, what="sent runs")
    # Kill it, since Celery's warm shutdown does not always finish on a busy machine.
    os.killpg(theirs.pid, signal.SIGKILL)
    theirs.wait(timeout=30)
    ours = bed.worker("-Q", "both", "-n", "ours@host")
    # Runs sent before this worker started: an attempt and its retry.
    bed.await_notes("ours", 2)
    run = bed.await_run("both", lambda run: run.state is RunState.SENT and bool(run.worker))
    assert "ours@host" in (run.worker or "")
    tries = eventually(
        lambda: [[*note[1:4]] for note in bed.notes("ours") if note[2] == run.id] or None
    )
    eventually(
        lambda: sorted(note[3] for note in bed.notes("ours") if note[2] == run.id) == ["0", "1"],
        what=f"an attempt and a retry of {run.id} ({tries})",
    )
    # Later runs are followed.
    followed = bed.await_run("both", lambda run: run.state is RunState.SUCCEEDED)
    assert "ours@host" in (followed.worker or ""), bed.log(ours)


def test_a_message_taken_by_a_foreign_worker_is_not_pushed_again(bed: Bed) -> None:
    bed.worker("-Q", "both", "-n", "ours@host")
    foreign_worker(bed, "both")
    bed.beat()
    bed.await_worker()
    bed.await_leader()
    bed.await_notes("theirs", 1)
    (note, *_) = bed.notes("theirs")
    run = bed.await_run("both", lambda run: run.state is RunState.QUEUED and run.id in note[1])
    make_due(bed, run)
    ended = bed.await_run("both", lambda one: one.id == run.id and one.state is RunState.SENT)
    assert "taken from queue 'both'" in (ended.reason or "")
    assert len([1 for note in bed.notes("theirs") if run.id in note[1]]) == 1
    assert not [1 for note in bed.notes("ours") if note[2] == run.id]


def test_messages_of_a_deleted_queue_are_pushed_again_and_executed_once(bed: Bed) -> None:
    bed.beat()
    bed.await_leader()
    run = bed.await_run("tick", lambda run: run.state is RunState.QUEUED)
    database = bed.database()
    eventually(lambda: database.call("DEL", "svc"), what="a message on the queue")
    make_due(bed, run)
    eventually(
        lambda: any(run.id in message for message in database.call("LRANGE", "svc", 0, -1)),
        what="its message on the queue again",
    )
    assert bed.await_run("tick", lambda one: one.id == run.id).state is RunState.QUEUED
    foreign_worker(bed, "svc")
    bed.await_run("tick", lambda one: one.id == run.id and one.state is RunState.SENT)
    assert len([1 for note in bed.notes("tick") if run.id in note[1]]) == 1


def test_a_project_with_its_own_schedules_executes_another_projects_runs_once(bed: Bed) -> None:
    """The other project's workers have the hooks, but their namespace has no record of the run."""
    theirs = foreign_worker(bed, "svc", app="neighbour", name="neighbour@host")
    bed.beat()
    bed.await_leader()
    bed.await_notes("tick", 2)
    (note, *_) = bed.notes("tick")
    run = bed.await_run("tick", lambda run: run.id in note[1])
    make_due(bed, run)
    bed.await_run("tick", lambda one: one.id == run.id and one.state is RunState.SENT)
    assert len([1 for note in bed.notes("tick") if run.id in note[1]]) == 1, bed.log(theirs)
