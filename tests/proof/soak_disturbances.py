"""Disturb child processes and a server, and bring them back.

`Disturbed` is the base of every soak. Each soak has its own faults and its own judgement.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from bench.server import wait_until
from hermes_celery import embedded_server
from hermes_celery.errors import StoreError
from hermes_celery.process.parent_death import die_with_parent
from hermes_celery.store import Database


class Member:
    """A child process that is started again whenever it dies."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._command = command
        self._environment = environment
        self._log = log
        self._back_at = 0.0
        self._wakes_at: float | None = None
        self._was_killed = False
        #: Times that it ended although nobody killed it.
        self.ended = 0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def kill(self, *, back_after: float) -> None:
        """Kill the process and its children with SIGKILL; start it again after a while."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._wakes_at = None
        self._was_killed = True
        self._back_at = time.monotonic() + back_after

    def freeze(self, seconds: float) -> None:
        """Send SIGSTOP now, and SIGCONT after that many seconds."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        self._wakes_at = time.monotonic() + seconds

    @property
    def well(self) -> bool:
        """True if it runs and is not frozen."""
        return self._wakes_at is None and self.process.poll() is None

    def look_after(self, *, at_once: bool = False) -> None:
        """Resume it, or start it again, when it is time."""
        now = time.monotonic()
        if self._wakes_at is not None and (at_once or now >= self._wakes_at):
            os.killpg(self.process.pid, signal.SIGCONT)
            self._wakes_at = None
        if self.process.poll() is not None and (at_once or now >= self._back_at):
            self.ended += not self._was_killed
            self._was_killed = False
            self.process = self._start()


class Server:
    """The Valkey server of one round, on a loopback port."""

    def __init__(self, home: Path, *, fsync: str) -> None:
        self._fsync = fsync
        command = embedded_server.server_command(home)
        self._socket = Path(command[command.index("--unixsocket") + 1])
        self.port = _free_port()
        self._command = [
            *command,
            *("--bind", "127.0.0.1", "--port", str(self.port)),
            *("--appendfsync", fsync),
        ]
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )

    def restart(self, *, away_seconds: float) -> None:
        """Stop the server, wait, and start it again."""
        if self._fsync == "always":
            self._process.kill()
        else:
            self._process.terminate()
        self._process.wait(30)
        wait_for(away_seconds)
        self._process = self._start()

    def stop(self) -> None:
        """Kill the server and do not start it again."""
        self._process.kill()
        self._process.wait()


class Disturbances(msgspec.Struct, kw_only=True):
    """Counts of the faults in processes and server."""

    kills: int = 0
    freezes: int = 0
    restarts: int = 0
    #: Processes that ended although nobody killed them.
    ended: int = 0


class Disturbed(ABC):
    """Beats and workers on a server, all of which are disturbed and brought back."""

    _beats: list[Member]
    _workers: list[Member]
    _figures: Disturbances

    def __init__(self, server: Server, database: Database, dice: random.Random) -> None:
        self._server = server
        self._database = database
        self._dice = dice

    @abstractmethod
    def _fault(self) -> None:
        """Cause one of the soak's faults at random."""

    @abstractmethod
    def _next_due_ms(self) -> Iterable[float]:
        """Return the next due instants of the schedules, Unix ms."""

    @property
    def _members(self) -> list[Member]:
        return [*self._beats, *self._workers]

    def _disturb(
        self,
        seconds: float,
        *,
        first_seconds: float,
        fault_seconds: float,
        deed_seconds: float,
        deed: Callable[[], object] | None = None,
    ) -> None:
        """Cause random faults until the time is over.

        The first fault comes after `first_seconds`, the others about `fault_seconds` apart. Between
        them `deed` is called every `deed_seconds`.
        """
        deadline = time.monotonic() + seconds
        next_fault = time.monotonic() + first_seconds
        while time.monotonic() < deadline:
            self._look_after()
            if time.monotonic() >= next_fault:
                self._fault()
                next_fault = time.monotonic() + self._dice.expovariate(1 / fault_seconds)
            if deed is not None:
                deed()
            wait_for(deed_seconds)

    def _kill(self, member: Member) -> None:
        if member.well:
            self._figures.kills += 1
            member.kill(back_after=self._dice.uniform(0, 2))

    def _freeze(self, member: Member, *, shortest: float = 0.5, longest: float) -> None:
        if member.well:
            self._figures.freezes += 1
            member.freeze(self._dice.uniform(shortest, longest))

    def _restart_server(self) -> None:
        self._figures.restarts += 1
        self._server.restart(away_seconds=self._dice.uniform(0, 2))
        wait_until(self._answers, what="the server answers again")

    def _look_after(self, *, at_once: bool = False) -> None:
        for member in self._members:
            member.look_after(at_once=at_once)

    def _calm(self, *, calm_seconds: float, late_ms: float, settle_seconds: float) -> None:
        """Bring everything back, wait a moment, and wait until the schedules are in time."""

        def is_in_time() -> bool:
            self._look_after(at_once=True)
            return in_time(self._next_due_ms(), now_ms=self._database.now_ms(), late_ms=late_ms)

        self._look_after(at_once=True)
        wait_for(calm_seconds)
        what = "the schedules are in time"
        wait_until(is_in_time, what=what, seconds=settle_seconds, poll=0.1)

    def _answers(self) -> bool:
        try:
            return bool(self._database.call("PING"))
        except StoreError:
            return False

    def _end_all(self) -> None:
        self._figures.ended = sum(member.ended for member in self._members)
        for member in self._members:
            if member.process.poll() is None:
                member.kill(back_after=1e9)


def in_time(due_ms: Iterable[float], *, now_ms: float, late_ms: float) -> bool:
    """Return whether nothing is overdue by `late_ms` or more."""
    return all(due > now_ms - late_ms for due in due_ms)


def inherited_environment() -> dict[str, str]:
    """Return the environment variables that a child process inherits."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


def wait_for(seconds: float) -> None:
    """Let real time pass, to spread the faults over it."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(left)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
