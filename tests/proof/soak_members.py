"""What the soak breaks: child processes that come back, and a server that restarts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from hermes_celery import embedded
from hermes_celery.parent_death import die_with_parent


class Member:
    """One child process that is started again whenever it dies."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._command = command
        self._environment = environment
        self._log = log
        self._back_at = 0.0
        self._wakes_at: float | None = None
        self._was_killed = False
        #: How often it ended although nobody killed it.
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
        """kill -9, of it and its children."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._wakes_at = None
        self._was_killed = True
        self._back_at = time.monotonic() + back_after

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT when the time is over."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        self._wakes_at = time.monotonic() + seconds

    @property
    def well(self) -> bool:
        """Whether it runs."""
        return self._wakes_at is None and self.process.poll() is None

    def look_after(self, *, at_once: bool = False) -> None:
        """Wake it up, or start it again, when it is time."""
        now = time.monotonic()
        if self._wakes_at is not None and (at_once or now >= self._wakes_at):
            os.killpg(self.process.pid, signal.SIGCONT)
            self._wakes_at = None
        if self.process.poll() is not None and (at_once or now >= self._back_at):
            self.ended += not self._was_killed
            self._was_killed = False
            self.process = self._start()


class Server:
    """The Valkey server of one round, on a loopback port, restarted at will."""

    def __init__(self, home: Path, *, fsync: str) -> None:
        self._fsync = fsync
        command = embedded.server_command(home)
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
        """Stop it, be away for a while, start it again."""
        if self._fsync == "always":
            self._process.kill()
        else:
            self._process.terminate()
        self._process.wait(30)
        wait_for(away_seconds)
        self._process = self._start()

    def stop(self) -> None:
        """For good."""
        self._process.kill()
        self._process.wait()


def wait_for(seconds: float) -> None:
    """Let time pass: faults are spread over it."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(left)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
