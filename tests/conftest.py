"""Servers for tests: one real Valkey for the session, one namespace for each test."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fakeredis
import pytest

from hermes_celery import embedded_server
from hermes_celery.errors import StoreUnavailable
from hermes_celery.store import Database, connect
from hermes_celery.store.keys import Keys
from tests.support import HandClock, Store, eventually


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A real Valkey of this session, on a unix socket; or the server that a variable names."""
    given = os.environ.get("HERMES_CELERY_TEST_REDIS_URL")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="hc-") as directory:
        state_dir = Path(directory)
        process = subprocess.Popen(
            embedded_server.server_command(state_dir),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            await_server(embedded_server.url(state_dir))
            yield embedded_server.url(state_dir)
        finally:
            process.kill()
            process.wait()


def await_server(url: str) -> None:
    """Wait until a server answers."""
    client = Database(connect(url))

    def answers() -> bool:
        try:
            return bool(client.call("PING"))
        except StoreUnavailable:
            return False

    eventually(answers, what="the server's answer")
    client.close()


@pytest.fixture
def namespace() -> str:
    """A name that no other test uses."""
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
def valkey(valkey_url: str, namespace: str) -> Iterator[Database]:
    """A namespace of the real server."""
    database = Database(connect(valkey_url), keys=Keys(namespace=namespace))
    yield database
    # What one test leaves must not be in the way of those that look at all keys.
    for key in database.client.scan_iter(f"*{namespace}*", count=1000):
        database.client.unlink(key)
    database.close()


@pytest.fixture(params=["fakeredis", "valkey"])
def database(request: pytest.FixtureRequest, namespace: str) -> Iterator[Database]:
    """The same suite on a fake and on the real thing."""
    if request.param == "valkey":
        yield request.getfixturevalue("valkey")
        return
    client = fakeredis.FakeRedis(decode_responses=True)
    yield Database(client, keys=Keys(namespace=namespace))
    client.close()


@pytest.fixture
def clock() -> HandClock:
    """Noon of 2026-06-22, UTC, until it is set."""
    return HandClock()


@pytest.fixture
def store(database: Database, clock: HandClock) -> Store:
    """Jobs, runs and due index in a namespace of their own."""
    return Store(database, clock)
