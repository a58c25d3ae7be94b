"""Tests that deliveries in progress while the server is frozen are not sent twice."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes_celery import embedded_server
from hermes_celery.core.run import DeliveryState
from hermes_celery.store import Database, Deliveries, Runs, connect
from hermes_celery.store.keys import Keys
from tests.conftest import await_server
from tests.receivers import http_receiver
from tests.support import eventually
from tests.system.conftest import Processes, await_leader, await_worker, script

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a Valkey process of this test's own that it may freeze."""
    process = subprocess.Popen(
        embedded_server.server_command(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    await_server(embedded_server.url(tmp_path))
    yield process
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.slow)])
def test_messages_sent_before_the_server_froze_are_not_sent_again(
    server: subprocess.Popen[bytes], processes: Processes, home: Path, tmp_path: Path,
    namespace: str, pool: str,
) -> None:  # fmt: skip
    url = embedded_server.url(tmp_path)
    database = Database(connect(url), keys=Keys(namespace=namespace))
    runs, deliveries = Runs(database), Deliveries(database)
    processes.environment |= {"HERMES_REDIS_URL": url, "HERMES_CELERY_WRAP": "off"}
    worker = processes.celery(
        "worker", "--pool", pool,
        HERMES_CELERY_DELIVERY_TIMEOUT="30", HERMES_CRON_MAX_WORKERS="4",
    )  # fmt: skip
    processes.celery("beat")
    await_worker(database)
    await_leader(database)
    script(home, "hi.sh", 'echo "$HERMES_CRON_RUN_ID"')
    with http_receiver() as http:
        http.answers = [None] * 3
        for number in range(6):
            made = processes.hermes(
                "add", "every 1h", "--script", "hi.sh", "--no-agent", "--name", f"n{number}",
                "--deliver", http.url,
            )  # fmt: skip
            assert made.returncode == 0, made.stderr
            begun = processes.hermes("run", f"n{number}")
            assert begun.returncode == 0, begun.stderr
        # The receiver has three messages, but no worker has recorded that.
        eventually(lambda: len(http.requests) >= 3, what="three messages")
        server.send_signal(signal.SIGSTOP)
        http.release.set()
        # By then every claim has expired.
        eventually(lambda: "delivery.done_waits" in processes.log(worker), seconds=90,
                   what="a result that waits")  # fmt: skip
        server.send_signal(signal.SIGCONT)
        ids = [run.id for run in runs.latest(limit=20)]
        eventually(
            lambda: all(runs.get(run_id).delivery is DeliveryState.DELIVERED for run_id in ids),
            seconds=90,
            what="all deliveries",
        )
        assert deliveries.due(10**15, limit=10) == []
        assert sorted(http.messages) == sorted(ids)
    database.close()
