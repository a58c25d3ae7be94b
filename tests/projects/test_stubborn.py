"""Tests tasks that cannot be interrupted: their slot is freed, or an incident reports it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hermes_celery.core.incidents import Incident, TroubleKind
from hermes_celery.core.run import RunState
from hermes_celery.store import Incidents, Runs
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_the_slot_of_a_task_that_ignores_interruption_is_freed_or_reported(tmp_path: Path) -> None:
    """One task swallows every exception, one holds the GIL, and one blocks a thread."""
    release = tmp_path / "release"
    with Bed("stubborn", tmp_path) as bed:
        worker = bed.worker("-c", "2", "-n", "pool@%h", "-Q", "celery", RELEASE=str(release))
        bed.worker("-P", "threads", "-n", "threads@%h", "-Q", "threads", RELEASE=str(release))
        bed.beat()
        bed.await_worker(2)
        bed.await_leader()
        for job in ("swallow", "hold", "thread"):
            eventually(lambda job=job: bed.hermes("run", job).returncode == 0, what=job)  # type: ignore[misc]
        pids = [int(bed.await_notes(word)[0][1]) for word in ("swallow", "hold")]
        bed.await_notes("thread")
        for job in ("swallow", "thread"):
            assert bed.hermes("cancel", bed.runs(job)[0].id).returncode == 0
        # The task that swallows exceptions ends with its process; its record says so.
        ended = bed.await_run("swallow", lambda run: run.state is RunState.CANCELLED)
        eventually(lambda: is_gone(pids[0]), what="the exit of its process")
        assert b"so its process was killed" in Runs(bed.database()).stderr(ended.id)
        assert bed.hermes("run", "quick").returncode == 0
        bed.await_notes("quick")
        # A thread cannot be ended, so an incident names its job, run and worker.
        incidents = Incidents(bed.database())
        (told,) = eventually(lambda: stuck(incidents), what="the incident of the thread")
        thread = bed.runs("thread")[0]
        assert thread.worker is not None
        for word in ("Cron 'thread'", thread.id, thread.worker, "restart that worker"):
            assert word in told.text
        release.touch()
        bed.await_run("thread", lambda run: run.state.is_final)
        eventually(lambda: not stuck(incidents), what="the closed incident")
        # The task that holds the GIL sends no heartbeat, is lost, and is killed from outside.
        bed.await_run("hold", lambda run: run.state is RunState.LOST)
        eventually(
            lambda: is_gone(pids[1]), seconds=60, what="the exit of the process that holds the GIL"
        )
        assert bed.runs("hold")[0].state is RunState.LOST
        assert len(bed.runs("hold")) == len(bed.runs("swallow")) == 1
        assert len(bed.notes("hold")) == len(bed.notes("swallow")) == 1
        assert worker.poll() is None


def stuck(incidents: Incidents) -> list[Incident]:
    return [one for one in incidents.of_job("") if one.kind is TroubleKind.STUCK]
