"""Fixtures that start real beats and workers, each test in a namespace and home of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes_celery.client import Client
from hermes_celery.core.job import JobRequest
from hermes_celery.settings import read_settings
from hermes_celery.store import Database
from hermes_celery.store.worker_signs import alive
from hermes_celery.wiring.client import open_cron
from tests.support import eventually

pytestmark = pytest.mark.system


class Processes:
    """Starts commands as child processes and ends all of them."""

    def __init__(self, environment: dict[str, str], logs: Path) -> None:
        self.environment = environment
        self._logs = logs
        self._running: list[subprocess.Popen[bytes]] = []

    def celery(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `celery -A hermes_celery` with these arguments only."""
        return self.start([sys.executable, "-m", "celery", "-A", "hermes_celery", *arguments],
                          **environment)  # fmt: skip

    def start(
        self, command: list[str], cwd: Path | None = None, /, **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own; `log` returns its output."""
        path = self._logs / f"{len(self._running)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                command,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=cwd,
            )
        self._running.append(process)
        return process

    def log(self, process: subprocess.Popen[bytes]) -> str:
        """Return the output of a process so far."""
        path = self._logs / f"{self._running.index(process)}.log"
        return path.read_text(encoding="utf-8", errors="replace")

    def hermes(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `hermes-celery` with these arguments and wait until it exits."""
        return subprocess.run(
            [sys.executable, "-m", "hermes_celery", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def end_all(self) -> None:
        """Kill every process that still runs, with its process group."""
        for process in self._running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return an empty Hermes home with a scripts directory."""
    (tmp_path / "home" / "scripts").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def environment(valkey_url: str, namespace: str, home: Path) -> dict[str, str]:
    """Return the environment variables of the child processes."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **kept,
        "HERMES_REDIS_URL": valkey_url,
        "HERMES_CELERY_NAMESPACE": namespace,
        "HERMES_HOME": str(home),
        "HERMES_TIMEZONE": "UTC",
        "HERMES_CELERY_GRACE": "5",
    }


@pytest.fixture
def processes(environment: dict[str, str], tmp_path: Path) -> Iterator[Processes]:
    """Yield a starter of processes in this test's namespace."""
    processes = Processes(environment, tmp_path)
    yield processes
    processes.end_all()


@pytest.fixture
def cron(environment: dict[str, str]) -> Client:
    """Return a client in this test's namespace."""
    return open_cron(read_settings(environment))


def await_worker(database: Database, count: int = 1) -> None:
    """Wait until at least `count` workers are alive."""
    eventually(
        lambda: len(alive(database, now_ms=database.now_ms())) >= count, what=f"{count} workers"
    )


def await_leader(database: Database) -> str:
    """Wait until a beat leads and return the holder of the lease."""
    return str(
        eventually(lambda: database.call("GET", database.keys.lease), what="a beat that leads")
    )


def script(home: Path, name: str, text: str) -> str:
    """Write a script and return its name."""
    (home / "scripts" / name).write_text(text, encoding="utf-8")
    return name


def script_job(schedule: str, name: str) -> JobRequest:
    """Return a request for a script job."""
    return JobRequest(schedule=schedule, script=name, no_agent=True, name=name)
