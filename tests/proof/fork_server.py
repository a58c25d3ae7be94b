"""Forks child processes from a warm one, so that a thousand crashes do not cost a thousand imports.

The fork server is a process of its own with a single thread. It imports everything once, then reads
orders from its standard input. For each it forks, waits until the child has ended or frozen, and
answers on its standard output. It runs one child at a time.

    python -m tests.proof.fork_server
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from types import TracebackType

import msgspec

from hermes_celery.process.parent_death import die_with_parent
from tests.proof.crashing_connections import Point

_ROOT = Path(__file__).parents[2]
_PATIENCE_SECONDS = 30.0


class Act(StrEnum):
    """The work of a child."""

    #: A beat's steps: take the lease, tick, rescue, release.
    BEAT = "beat"
    #: Take messages and perform their runs until the queue is empty.
    WORKER = "worker"
    #: Take delivery messages and deliver until the queue is empty.
    POSTMAN = "postman"
    #: Run a Celery worker until one run is over.
    CELERY = "celery worker"


class Orders(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Fork a child with these orders."""

    act: Act
    url: str
    now_ms: int
    #: The directory in which runs note their start.
    starts: str
    point: Point | None = None
    #: A bug to plant: `known_bugs.KnownBug`.
    plant: str = ""
    #: Whether a worker's runs last until a heartbeat was written.
    heartbeats: bool = False
    #: Whether output is delivered: by workers' messages, and by a beat's rescue.
    delivers: bool = False
    #: The pool of the Celery worker.
    pool: str = "solo"
    #: Threads whose calls count, so that their order is stable: `all`, `main` or `pool`.
    threads: str = "all"


class Resume(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Resume a frozen child."""

    pid: int


class Ending(StrEnum):
    """The way in which a child ended."""

    EXITED = "exited"
    KILLED = "killed"
    FROZEN = "frozen"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a child, and the call at which it came."""

    pid: int
    ending: Ending
    code: int = 0
    #: The call at which it met its fate.
    call: str = ""


class ForkServer:
    """The test's handle on the warm process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ForkServer:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.proof.fork_server"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def run(self, request: Orders | Resume) -> Report:
        """Send a request, and wait until the child has ended or frozen."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(request) + b"\n")
        ready, _, _ = select.select([self._process.stdout], [], [], _PATIENCE_SECONDS)
        assert ready, f"no child ended within {_PATIENCE_SECONDS:g} s: {request}"
        report = msgspec.json.decode(self._process.stdout.readline(), type=Report)
        assert report.ending is not Ending.EXITED or report.code == 0, f"a child failed: {request}"
        return report


class _Forks:
    """The side of the fork server that forks and waits."""

    def __init__(self, perform: Callable[[Orders, Callable[[str], None]], None]) -> None:
        self._perform = perform
        self._read_end = 0

    def answer(self, request: Orders | Resume) -> Report:
        """Fork or resume a child, and report its end."""
        if isinstance(request, Resume):
            os.kill(request.pid, signal.SIGCONT)
            return self._awaited(request.pid)
        self._read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._child(request, write_end)
        os.close(write_end)
        return self._awaited(pid)

    def _child(self, orders: Orders, write_end: int) -> None:
        code = 1
        try:
            die_with_parent()
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, 0)
            os.dup2(nowhere, 1)
            self._perform(orders, lambda words: (os.write(write_end, words.encode()), None)[1])
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it is, this process ends here
            traceback.print_exc()
        finally:
            os._exit(code)

    def _awaited(self, pid: int) -> Report:
        _, status = os.waitpid(pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            return Report(pid=pid, ending=Ending.FROZEN, call=os.read(self._read_end, 999).decode())
        call = os.read(self._read_end, 999).decode()
        os.close(self._read_end)
        if os.WIFSIGNALED(status):
            return Report(pid=pid, ending=Ending.KILLED, code=os.WTERMSIG(status), call=call)
        return Report(pid=pid, ending=Ending.EXITED, code=os.WEXITSTATUS(status), call=call)


def main() -> None:
    """Read orders until the input ends."""
    from tests.proof import crash_child  # this import makes the process warm

    die_with_parent()
    logging.disable(logging.CRITICAL)
    crash_child.warm_up()
    forks = _Forks(crash_child.perform)
    requests = msgspec.json.Decoder(Orders | Resume)
    for line in sys.stdin.buffer:
        report = forks.answer(requests.decode(line))
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    # Not the `main` of `__main__`: `crash_child` imports the classes of the named module.
    from tests.proof import fork_server

    fork_server.main()
