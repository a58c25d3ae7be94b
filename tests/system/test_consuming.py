"""Tests that a worker counts as a consumer only while it asks the server for messages."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from hermes_celery.celery_app import safe_consumer
from hermes_celery.celery_app.app_settings import app_settings
from hermes_celery.client import Client
from hermes_celery.core.job import JobRequest
from hermes_celery.core.run import RunState
from hermes_celery.settings import read_settings
from hermes_celery.store import Database, QueueLoad, WorkerSign
from hermes_celery.wiring.own_app import make_app
from hermes_celery.wiring.worker import make_dead_letters, make_run_ender
from tests.support import eventually, one_spaced
from tests.system.conftest import Processes, await_leader, await_worker, script, script_job

pytestmark = pytest.mark.system

#: An app whose kombu never asks the server for messages, as some versions of kombu did.
_DEAF = """
from kombu.transport.redis import Channel
from hermes_celery.wiring.own_app import app_from_environment
Channel._brpop_start = lambda self, timeout=None: None
app = app_from_environment()
"""


def sign_of(database: Database, *, after_ms: int = 0) -> WorkerSign:
    """Return the only worker's sign, as soon as it is newer than `after_ms`."""

    def newer() -> list[WorkerSign]:
        return [sign for sign in QueueLoad(database).signs().values() if sign.seen_ms > after_ms]

    return eventually(newer, what="a worker's sign")[0]


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_a_worker_renews_its_sign_and_records_when_it_took_a_message(
    processes: Processes, valkey: Database, cron: Client, home: Path, pool: str
) -> None:
    processes.celery("worker", "--pool", pool)
    queue, load = valkey.keys.default_queue, QueueLoad(valkey)
    first = sign_of(valkey)
    assert set(first.queues) == {queue, valkey.keys.delivery_queue}
    assert first.disk_total > first.disk_free > 0
    eventually(
        lambda: sign_of(valkey).queues[queue] > first.queues[queue] + 1000, what="a newer sign"
    )
    assert load.taken() == {}
    script(home, "hi.sh", "echo hi")
    run_id = cron.run(cron.add(script_job("every 1h", "hi.sh")).id)
    eventually(lambda: cron.runs.get(run_id).state is RunState.SUCCEEDED, what="the run")
    taken = eventually(load.taken, what="the time at which the message was taken")
    assert abs(taken[queue] - valkey.now_ms()) < 60_000
    assert load.queues() == {queue, valkey.keys.delivery_queue}


def test_a_worker_that_asks_for_no_messages_does_not_renew_its_sign(
    processes: Processes, valkey: Database, tmp_path: Path
) -> None:
    (tmp_path / "deaf.py").write_text(_DEAF, encoding="utf-8")
    processes.start(
        [sys.executable, "-m", "celery", "-A", "deaf", "worker"], PYTHONPATH=str(tmp_path)
    )
    first = sign_of(valkey)
    later = sign_of(valkey, after_ms=first.seen_ms + 5000)
    # Its queues keep the time at which it started, except for rounding.
    for queue, asked_ms in later.queues.items():
        assert abs(asked_ms - first.queues[queue]) < 1000


def test_a_worker_of_another_queue_does_not_count_as_a_consumer(
    processes: Processes, valkey: Database, cron: Client
) -> None:
    processes.celery("beat")
    processes.celery("worker", "-Q", "other")
    await_worker(valkey)
    await_leader(valkey)
    assert processes.hermes("status", "--check").returncode == 0
    gpu = f"{valkey.keys.namespace}-gpu"
    for queue in (None, gpu):
        cron.run(cron.add(JobRequest(schedule="every 1h", prompt="x", queue=queue)).id)
    told = processes.hermes("doctor").stdout
    for queue in (valkey.keys.default_queue, gpu):
        assert (
            f"fail queue queue {queue}: no worker consumes it, and 1 message waits"
            in one_spaced(told)
        )
        assert f"celery -A hermes_celery worker -Q {queue}`" in told
    status = processes.hermes("status", "--check")
    assert status.returncode == 1
    assert f"queue     {gpu}: 1 message waits, the oldest since" in status.stdout


def test_a_worker_that_is_frozen_is_not_counted(processes: Processes, valkey: Database) -> None:
    worker = processes.celery("worker")
    await_worker(valkey)
    assert "ok workers 1: " in one_spaced(processes.hermes("doctor").stdout)
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        eventually(
            lambda: "fail workers none" in one_spaced(processes.hermes("doctor").stdout),
            what="a doctor that counts no worker",
        )
    finally:
        os.kill(worker.pid, signal.SIGCONT)


def test_a_worker_that_stops_removes_its_sign(processes: Processes, valkey: Database) -> None:
    worker = processes.celery("worker")
    sign_of(valkey)
    worker.terminate()
    assert worker.wait(30) == 0
    eventually(lambda: QueueLoad(valkey).signs() == {}, what="the removal of the sign")


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_worker_whose_subscription_is_closed_goes_on(
    processes: Processes, valkey: Database, cron: Client, home: Path, pool: str
) -> None:
    """The server closes a subscription whose worker reads broadcasts too slowly."""
    processes.celery("worker", "--pool", pool)
    await_worker(valkey)
    script(home, "hi.sh", "echo hi")
    job_id = cron.add(script_job("every 1h", "hi.sh")).id
    for _ in range(3):
        eventually(lambda: valkey.client.client_kill_filter(_type="pubsub"), what="a subscription")
        run_id = cron.run(job_id)
        eventually(lambda one=run_id: cron.runs.get(one).state.is_final, what="the run")  # type: ignore[misc]
    assert processes.celery("inspect", "ping").wait(30) == 0


def test_a_channel_with_unacknowledged_messages_closes_after_its_connection_was_dropped(
    environment: dict[str, str],
) -> None:
    """Celery drops a lost connection in this way; an error here would end the worker."""
    app = make_app(read_settings(environment))
    settings = app_settings(app)
    letters = make_dead_letters(settings, worker="w", run_ender=make_run_ender(settings))
    safe_consumer.install(app, letters)
    connection = app.amqp.Connection(app.conf.broker_url)
    queue = app.amqp.queues[app.conf.task_default_queue](connection.default_channel)
    queue.declare()
    app.send_task("any", connection=connection, queue=queue.name)
    channel = connection.default_channel
    assert eventually(lambda: channel.basic_get(queue.name), what="the message") is not None
    assert channel.qos._delivered
    channel.connection.client = None
    channel.close()
    assert channel.closed
