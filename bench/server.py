"""Starts a benchmark's Valkey server and its other child processes.

Every child process is ended, whatever happens: it is in a session of its own, is ended by its
process group, and dies with this process (on Linux). The server is started with the command line
that the package uses for its embedded server, in a temporary directory.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

from hermes_celery import embedded_server
from hermes_celery.process.parent_death import die_with_parent

#: Longest wait until a process answers.
READY_SECONDS = 20.0
_POLL_SECONDS = 0.005
_STOP_SECONDS = 10.0


class BenchError(Exception):
    """The measurement is invalid: something did not start, finish or succeed."""


@contextmanager
def valkey(*, aof: bool = True, tcp: bool = False, fsync: str = "everysec") -> Iterator[str]:
    """Start a Valkey on a unix socket, or with `tcp` on a loopback port, and yield its URL.

    With `aof` it has an append-only file, synced every second as in the embedded server, or as
    `fsync` says.
    """
    with tempfile.TemporaryDirectory(prefix="hermes-bench-") as directory:
        home = Path(directory)
        port = _free_port() if tcp else 0
        command = [
            *embedded_server.server_command(home),
            *("--bind", "127.0.0.1", "--port", str(port)),
            *("--appendonly", "yes" if aof else "no"),
            *("--appendfsync", fsync),
        ]
        url = f"redis://127.0.0.1:{port}/0" if tcp else embedded_server.url(home)
        with child(command, environment=os.environ, log=home / "valkey.log") as process:
            wait_until(lambda: _answers(url, process), what="the Valkey server answers")
            yield url


@contextmanager
def child(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process as long as the block; its output goes to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    try:
        yield process
    finally:
        _end(process)


def run_to_end(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path, seconds: float
) -> None:
    """Run a process to its exit. Raises BenchError if it fails or takes too long."""
    with child(command, environment=environment, log=log) as process:
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{command[-1]} took longer than {seconds:g} s") from None
    if code:
        raise BenchError(f"{command[-1]} exited with code {code}: {last_lines(log)}")


def last_lines(log: Path, count: int = 3) -> str:
    """Return the last lines of a log for an error message."""
    return " | ".join(log.read_text(errors="replace").splitlines()[-count:])


def wait_until(
    holds: Callable[[], bool], *, what: str, seconds: float = READY_SECONDS, poll: float = 0.0
) -> None:
    """Wait until a condition is true. Raises BenchError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise BenchError(f"timed out after {seconds:g} s waiting until {what}")
        time.sleep(poll or _POLL_SECONDS)


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise BenchError(f"the Valkey server exited with code {process.returncode}")
    client = redis.Redis.from_url(url)
    try:
        return bool(client.ping())
    except redis.exceptions.RedisError:
        return False
    finally:
        client.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM, wait, then send SIGKILL to the rest of the process group."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
