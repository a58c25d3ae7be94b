"""Tests that a stopping worker exits whatever it runs, and that its run's outcome is recorded."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from hermes_celery.client import Client
from hermes_celery.core.job import JobRequest
from hermes_celery.core.run import DeliveryState, RunState
from hermes_celery.core.work import TaskCall
from hermes_celery.process.last_resort import PATIENCE_SECONDS
from hermes_celery.settings import read_settings
from hermes_celery.store import Database
from hermes_celery.wiring.project import Cron
from tests.support import eventually, replaced
from tests.system.conftest import Processes, await_worker, script, script_job

pytestmark = pytest.mark.system


def pools(*common: str) -> list[Any]:
    """Return all pools; those not in `common` are marked slow."""
    return [
        pytest.param(pool, marks=() if pool in common else pytest.mark.slow)
        for pool in ("prefork", "threads", "solo", "gevent")
    ]


_GRACE_SECONDS = 1
_PROJECT = """
import os, re, time
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from hermes_celery import Cron

app = Celery("stubborn", broker=os.environ["BROKER"])
app.conf.task_default_queue = os.environ["HERMES_CELERY_NAMESPACE"]
cron = Cron(app)

@app.task
def swallows():
    while True:
        try:
            time.sleep(1)
        except SoftTimeLimitExceeded:
            print("no")

@app.task
def calculates():
    # One call into C that never releases the GIL.
    re.match("(a|a)*b", "a" * 60)
"""


@pytest.fixture
def stubborn(processes: Processes, tmp_path: Path, valkey_url: str) -> Client:
    """Write the project `stubborn.py` and return a client of it."""
    (tmp_path / "stubborn.py").write_text(_PROJECT, encoding="utf-8")
    processes.environment |= {
        "BROKER": valkey_url.replace("unix://", "redis+socket://"),
        "PYTHONPATH": str(tmp_path),
        "HERMES_CELERY_GRACE": str(_GRACE_SECONDS),
    }
    del processes.environment["HERMES_REDIS_URL"]
    app = Celery("stubborn", broker=processes.environment["BROKER"], set_as_current=False)
    app.conf.task_default_queue = processes.environment["HERMES_CELERY_NAMESPACE"]
    settings = read_settings({**processes.environment, "HERMES_REDIS_URL": valkey_url})
    return Cron(app, settings=settings).client


def running(cron: Client, request: JobRequest) -> str:
    """Add a job, run it, and return the run id once it is running."""
    run_id = cron.run(cron.add(request).id)
    eventually(lambda: cron.runs.get(run_id).state is RunState.RUNNING, what="the run")
    return run_id


@pytest.mark.parametrize("task", ["swallows", pytest.param("calculates", marks=pytest.mark.slow)])
@pytest.mark.parametrize("pool", pools("prefork"))
def test_a_task_that_ignores_interruption_is_killed_with_its_worker(
    processes: Processes, valkey: Database, stubborn: Client, pool: str, task: str
) -> None:
    command = [sys.executable, "-B", "-m", "celery", "-A", "stubborn"]
    worker = processes.start([*command, "worker", "--pool", pool, "--concurrency", "2"])
    await_worker(valkey)
    call = TaskCall(name=f"stubborn.{task}")
    run_id = running(stubborn, JobRequest(schedule="every 1h", name="n", task=call))
    # A project's warm shutdown waits for its tasks; its cold shutdown does not.
    worker.terminate()
    eventually(
        lambda: "Warm shutdown" in processes.log(worker), what="the start of its warm shutdown"
    )
    if task == "swallows":
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(_GRACE_SECONDS + PATIENCE_SECONDS + 2)
    worker.send_signal(signal.SIGQUIT)
    worker.wait(40)
    processes.start([*command, "beat", "-S", "hermes_celery.beat:CronScheduler"])
    eventually(lambda: stubborn.runs.get(run_id).state.is_final, seconds=60, what="the lost run")
    run = stubborn.runs.get(run_id)
    assert run.state is RunState.LOST
    # The text depends on which notices it first: Celery, or the rescue of missing heartbeats.
    said = ("the worker's process was terminated", "the worker died or was cut off")
    assert any(words in (run.error or "") for words in said)


@pytest.mark.parametrize("pool", pools("prefork"))
def test_a_script_that_ignores_sigterm_is_killed_and_the_worker_exits_with_zero(
    processes: Processes, valkey: Database, cron: Client, home: Path, pool: str
) -> None:
    worker = processes.celery("worker", "--pool", pool, HERMES_CELERY_GRACE="1")
    await_worker(valkey)
    script(home, "deaf.sh", "trap '' TERM; while :; do sleep 0.1; done")
    run_id = running(cron, script_job("every 1h", "deaf.sh"))
    worker.terminate()
    assert worker.wait(40) == 0, processes.log(worker)
    run = cron.runs.get(run_id)
    assert (run.state, run.reason) == (RunState.CANCELLED, "its worker shut down")


@pytest.mark.parametrize("pool", pools("threads"))
def test_a_hanging_delivery_does_not_keep_a_worker_from_stopping(
    processes: Processes, valkey: Database, cron: Client, home: Path, pool: str
) -> None:
    # It accepts connections and never reads from them.
    with socket.create_server(("127.0.0.1", 0)) as far_end:
        url = f"json://127.0.0.1:{far_end.getsockname()[1]}/x"
        worker = processes.celery(
            "worker", "--pool", pool, HERMES_CELERY_GRACE="1", HERMES_CELERY_DELIVERY_TIMEOUT="300"
        )
        await_worker(valkey)
        script(home, "hi.sh", "echo hi")
        job = cron.add(replaced(script_job("every 1h", "hi.sh"), deliver=url))
        run_id = cron.run(job.id)
        connection, _ = far_end.accept()
        worker.terminate()
        # The worker is killed, or exits by itself if it does not wait for the sender.
        worker.wait(40)
        connection.close()
    assert cron.runs.get(run_id).delivery is DeliveryState.PENDING
    (part,) = cron_part(valkey, run_id)
    assert part == "1"


def cron_part(database: Database, run_id: str) -> list[str]:
    """Return the number of attempts of a delivery's only part."""
    return [database.call("HGET", database.keys.delivery(run_id), "0:attempts")]


def test_an_idle_worker_exits_at_once_and_leaves_no_process(
    processes: Processes, valkey: Database
) -> None:
    worker = processes.celery("worker")
    await_worker(valkey)
    watching = f"last_resort_child.py {worker.pid} "
    assert eventually(lambda: commands(watching), what="its watchdog process")
    worker.terminate()
    assert worker.wait(20) == 0
    eventually(lambda: not commands(watching), what="the watchdog's exit")


def commands(part: str) -> list[str]:
    """Return the command lines of this machine's processes that contain a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if part in line:
            found.append(line)
    return found
