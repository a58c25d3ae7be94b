"""Fixtures for a test server: one real Valkey for the session, one namespace for each test."""

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
    """Yield the URL of a real Valkey that lives as long as the session, on a unix socket.

    HERMES_CELERY_TEST_REDIS_URL names another server to use instead.
    """
    given = os.environ.get("HERMES_CELERY_TEST_REDIS_URL")
    if given:
        with_embedded_options(given)
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


def with_embedded_options(url: str) -> None:
    """Set on a given server what the embedded one has and what some tests compare: how it packs."""
    database = Database(connect(url))
    database.call("CONFIG", "SET", "hash-max-ziplist-value", "2048")
    database.close()


def await_server(url: str) -> None:
    """Wait until the server at this URL answers PING."""
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
    """Return a namespace that no other test uses."""
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
def valkey(valkey_url: str, namespace: str) -> Iterator[Database]:
    """Yield a namespace of the real server; delete its keys afterwards."""
    database = Database(connect(valkey_url), keys=Keys(namespace=namespace))
    yield database
    # Some tests read all keys of the server, so no test may leave any behind.
    for key in database.client.scan_iter(f"*{namespace}*", count=1000):
        database.client.unlink(key)
    # Projects with namespaces of their own are listed in a key that all namespaces share.
    database.client.hdel(Keys().projects, namespace)
    database.close()


@pytest.fixture(params=["fakeredis", "valkey"])
def database(request: pytest.FixtureRequest, namespace: str) -> Iterator[Database]:
    """Yield a namespace of fakeredis, then one of the real server: the test runs on both."""
    if request.param == "valkey":
        yield request.getfixturevalue("valkey")
        return
    client = fakeredis.FakeRedis(decode_responses=True)
    yield Database(client, keys=Keys(namespace=namespace))
    client.close()


@pytest.fixture
def clock() -> HandClock:
    """Return a clock that stands at noon of 2026-06-22, UTC, until the test sets it."""
    return HandClock()


@pytest.fixture
def store(database: Database, clock: HandClock) -> Store:
    """Return the collaborators around one database: jobs, runs, due index and client."""
    return Store(database, clock)
