"""A run waits for what it was handed on to, whatever becomes of the worker that performs that."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from hermes_celery.core.run import RunState
from hermes_celery.instant import to_ms
from tests.projects.bed import Bed
from tests.projects.test_handing_on import bodies, ended, output
from tests.support import eventually

pytestmark = pytest.mark.system


def test_a_retry_comes_back_from_the_worker_that_died_with_it(tmp_path: Path) -> None:
    with Bed("handing_on", tmp_path) as bed:
        bed.environment["VISIBILITY"] = "5"
        worker = bed.worker()
        bed.beat()
        bed.await_worker()
        bed.await_leader()
        run_id = bed.run("patient")
        bed.await_run("patient", lambda run: run.retry_at is not None)
        client = bed.database().client
        eventually(lambda: not client.llen("celery") and client.hlen("unacked"), what="it is taken")
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        waiting = bed.cron().runs.get(run_id)
        assert waiting.why.startswith("waits for the retry of ")
        # Longer than the patience that the leader has with messages it has pushed itself.
        assert (
            client.zscore(bed.database().keys.queued, run_id) > to_ms(waiting.queued_at) + 120_000
        )
        eventually(lambda: client.hlen("unacked"), what="its message is kept by the broker")
        bed.worker()
        run = ended(bed, "patient")
        assert (run.state, run.attempt, output(bed, run)) == (RunState.SUCCEEDED, 1, "second")
        assert [note[2:4] for note in bodies(bed, "patient")] == [["first", "0"], ["second", "1"]]


def test_a_retry_that_no_worker_was_there_to_take_is_not_lost(tmp_path: Path) -> None:
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
        eventually(lambda: client.llen("celery"), what="its message is given back")
        # As if it had waited for an hour and more.
        client.zadd(keys.queued, {run_id: 1}, xx=True)
        eventually(lambda: client.zscore(keys.queued, run_id) != 1, what="the leader has looked")
        assert bed.cron().runs.get(run_id).state is RunState.QUEUED
        bed.worker()
        run = ended(bed, "patient")
        assert (run.state, output(bed, run)) == (RunState.SUCCEEDED, "second")
        assert [note[3] for note in bodies(bed, "patient")] == ["0", "1"]


def test_a_retry_on_another_queue_that_nobody_consumes_is_not_lost(tmp_path: Path) -> None:
    with Bed("handing_on", tmp_path) as bed:
        bed.worker("-Q", "celery")
        bed.beat()
        bed.await_worker()
        bed.await_leader()
        run_id = bed.run("sidelined")
        bed.await_run("sidelined", lambda run: run.retry_at is not None)
        client, keys = bed.database().client, bed.database().keys
        assert client.llen("other\x06\x166") == 1
        # As if it had waited for an hour and more.
        client.zadd(keys.queued, {run_id: 1}, xx=True)
        eventually(lambda: client.zscore(keys.queued, run_id) != 1, what="the leader has looked")
        assert bed.cron().runs.get(run_id).state is RunState.QUEUED
        bed.worker("-Q", "other")
        run = ended(bed, "sidelined")
        assert (run.state, output(bed, run)) == (RunState.SUCCEEDED, "sidelined")
        assert not client.hexists(keys.run(run_id), "handed_queue")


def test_a_step_that_its_worker_ended_to_stop_comes_again(tmp_path: Path) -> None:
    with Bed("handing_on", tmp_path) as bed:
        worker = bed.worker()
        bed.beat()
        bed.run("cut_off")
        bed.await_notes("held")
        worker.send_signal(signal.SIGQUIT)
        eventually(
            lambda: "Restoring 1 unacknowledged" in bed.log(worker), what="the step goes back"
        )
        # Celery may then read for ever from a pool process that it has killed in mid-sentence.
        with suppress(subprocess.TimeoutExpired):
            worker.wait(10)
        worker.kill()
        bed.worker()
        run = ended(bed, "cut_off")
        assert (run.state, output(bed, run)) == (RunState.SUCCEEDED, "leaf cut_off")
        assert len(bed.notes("held")) == 2
