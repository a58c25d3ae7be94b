"""Tests that a handed-on run waits for its retry or step, even if the worker of that dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from celery import Celery

from hermes_celery.core.run import RunState
from hermes_celery.instant import to_ms
from tests.projects.bed import Bed
from tests.projects.test_handing_on import bodies, ended, output
from tests.support import eventually

pytestmark = pytest.mark.system


def test_a_retry_is_redelivered_after_its_worker_died(tmp_path: Path) -> None:
    with Bed("handing_on", tmp_path) as bed:
        bed.environment["VISIBILITY"] = "5"
        worker = bed.worker()
        bed.beat()
        bed.await_worker()
        bed.await_leader()
        run_id = bed.run("patient")
        bed.await_run("patient", lambda run: run.retry_at is not None)
        client = bed.database().client
        eventually(
            lambda: not client.llen("celery") and client.hlen("unacked"), what="the taken message"
        )
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        waiting = bed.cron().runs.get(run_id)
        assert waiting.why.startswith("waits for the retry of ")
        # The leader waits longer for a retry than for a message that it pushed itself.
        assert (
            client.zscore(bed.database().keys.queued, run_id) > to_ms(waiting.queued_at) + 120_000
        )
        eventually(lambda: client.hlen("unacked"), what="the unacknowledged message")
        bed.worker()
        run = ended(bed, "patient")
        assert (run.state, run.attempt, output(bed, run)) == (RunState.SUCCEEDED, 1, "second")
        assert [note[2:4] for note in bodies(bed, "patient")] == [["first", "0"], ["second", "1"]]


def test_a_retry_is_not_lost_while_there_is_no_worker(tmp_path: Path) -> None:
    with Bed("handing_on", tmp_path) as bed:
        worker = bed.worker()
        bed.beat()
        bed.await_worker()
        bed.await_leader()
        run_id = bed.run("patient")
        bed.await_run("patient", lambda run: run.retry_at is not None)
        worker.terminate()
        worker.wait()
        client, keys = bed.database().client, bed.database().keys
        eventually(lambda: client.llen("celery"), what="the returned message")
        # Pretend that it has waited for more than an hour.
        client.zadd(keys.queued, {run_id: 1}, xx=True)
        eventually(lambda: client.zscore(keys.queued, run_id) != 1, what="a check by the leader")
        assert bed.cron().runs.get(run_id).state is RunState.QUEUED
        bed.worker()
        run = ended(bed, "patient")
        assert (run.state, output(bed, run)) == (RunState.SUCCEEDED, "second")
        assert [note[3] for note in bodies(bed, "patient")] == ["0", "1"]


def test_a_retry_on_a_queue_without_a_consumer_is_not_lost(tmp_path: Path) -> None:
    with Bed("handing_on", tmp_path) as bed:
        bed.worker("-Q", "celery")
        bed.beat()
        bed.await_worker()
        bed.await_leader()
        run_id = bed.run("sidelined")
        bed.await_run("sidelined", lambda run: run.retry_at is not None)
        client, keys = bed.database().client, bed.database().keys
        assert client.llen("other\x06\x166") == 1
        # Pretend that it has waited for more than an hour.
        client.zadd(keys.queued, {run_id: 1}, xx=True)
        eventually(lambda: client.zscore(keys.queued, run_id) != 1, what="a check by the leader")
        assert bed.cron().runs.get(run_id).state is RunState.QUEUED
        bed.worker("-Q", "other")
        run = ended(bed, "sidelined")
        assert (run.state, output(bed, run)) == (RunState.SUCCEEDED, "sidelined")
        assert not client.hexists(keys.run(run_id), "handed_queue")


def performed(bed: Bed) -> list[tuple[str, bool]]:
    """Return the tasks that the workers perform, and whether they know the pool process of each."""
    with Celery(broker=bed.server.url, set_as_current=False) as app:
        workers = app.control.inspect(timeout=1.0).active() or {}
    return [
        (task["name"], task["worker_pid"] is not None)
        for tasks in workers.values()
        for task in tasks
    ]


def test_a_step_that_a_stopping_worker_interrupted_is_redelivered(tmp_path: Path) -> None:
    with Bed("handing_on", tmp_path) as bed:
        worker = bed.worker()
        bed.beat()
        bed.run("cut_off")
        bed.await_notes("held")
        # Celery waits for ever if it kills a process before it has read what that wrote.
        eventually(lambda: performed(bed) == [("handing_on.held", True)], what="the step alone")
        worker.send_signal(signal.SIGQUIT)
        assert worker.wait(30) == 0
        bed.worker()
        run = ended(bed, "cut_off")
        assert (run.state, output(bed, run)) == (RunState.SUCCEEDED, "leaf cut_off")
        assert len(bed.notes("held")) == 2
