"""Start child processes in one order, and stop them in the reverse order.

A child that ends by itself is started again: first after a second, then each time after twice the
wait, up to a minute, because a process that cannot run must not spin. Restarts never stop: the
server, disk or setting at fault may be repaired at any time. After a minute of running, the wait is
a second again. The last error that a child logged is reported with its end. Children have their own
sessions, so that Ctrl-C reaches only this process. Each dies with this process, however it dies
(Linux).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from hermes_celery.guards.backoff import backoff
from hermes_celery.process.parent_death import die_with_parent

_RESTART_SECONDS = 1.0
_LONGEST_RESTART_SECONDS = 60.0
#: A child that ran this long has worked; when it ends, the waits begin again.
_WORKS_SECONDS = 60.0
#: An error message of ours or Celery's, or the last line of a traceback.
_ERROR = re.compile(r"^(?:[\w.]+)?(?:Error|Exception): \S.*", re.MULTILINE)
#: Bytes of a child's log that are searched for errors, and characters of an error that are kept.
_LOOKED_BYTES, _TOLD = 65_536, 500


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """One child: its command, and how it is stopped."""

    name: str
    command: Sequence[str]
    log: Path
    #: Seconds from SIGTERM to SIGKILL.
    stop_seconds: float
    #: The signal that the kernel sends it if this process dies.
    death_signal: int = signal.SIGKILL


class ChildEnded(msgspec.Struct, frozen=True, kw_only=True):
    """A child that ended by itself."""

    name: str
    exit_code: int
    #: The last error that it logged; "" if there is none.
    why: str


class Supervisor:
    """Starts, watches and stops the children."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str],
        say: Callable[[str], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._environment = dict(environment)
        self._say = say
        self._monotonic = monotonic
        self._running: list[tuple[Child, subprocess.Popen[bytes]]] = []
        #: By child: when it was started, and its failures in a row.
        self._started: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        #: By child: the size of its log when it was started.
        self._logged: dict[str, int] = {}
        self._due: list[tuple[float, Child]] = []

    def start(self, child: Child) -> None:
        """Start a child; its output goes to its log."""
        with child.log.open("ab") as log:
            self._logged[child.name] = log.tell()
            process = subprocess.Popen(
                child.command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(child.death_signal),
            )
        self._running.append((child, process))
        self._started[child.name] = self._monotonic()

    def names(self) -> list[str]:
        """Return the children that run or wait for a restart, in the order of their start."""
        waiting = [child.name for _, child in self._due]
        return list(dict.fromkeys([child.name for child, _ in self._running] + waiting))

    def pid(self, name: str) -> int | None:
        """Return the process id of a running child."""
        return next((p.pid for child, p in self._running if child.name == name), None)

    def exit_code(self, name: str) -> int | None:
        """Return the exit code of a child; None while it runs."""
        return next((p.poll() for child, p in self._running if child.name == name), None)

    def check(self) -> list[ChildEnded]:
        """Restart children whose wait is over; return the ones that ended since the last check."""
        endings = []
        for child, process in list(self._running):
            if process.poll() is not None:
                self._running.remove((child, process))
                endings.append(self._ended(child, process.returncode))
        now = self._monotonic()
        ready = [child for at, child in self._due if at <= now]
        self._due = [(at, child) for at, child in self._due if at > now]
        for child in ready:
            try:
                self.start(child)
            except OSError as error:
                # A shortage of processes, files or memory may be temporary.
                self._again(child, f"{child.name} cannot be started ({error})")
        return endings

    def longest_stop_seconds(self) -> float:
        """Return how many seconds it takes at most to stop all running children."""
        return sum(child.stop_seconds for child, _ in self._running)

    def stop(self, *names: str) -> None:
        """Stop children one after another; without names all of them, the last one first."""
        for child, process in reversed(list(self._running)):
            if not names or child.name in names:
                self._running.remove((child, process))
                _end(process, seconds=child.stop_seconds)

    def why(self, child: Child) -> str:
        """Return the last error that a child has logged since its start; "" if there is none."""
        try:
            with child.log.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._logged.get(child.name, 0), end - _LOOKED_BYTES))
                text = log.read(_LOOKED_BYTES).decode(errors="replace")
        except OSError:
            return ""
        errors = _ERROR.findall(text)
        return errors[-1].strip()[:_TOLD] if errors else ""

    def _ended(self, child: Child, code: int) -> ChildEnded:
        if self._monotonic() - self._started[child.name] >= _WORKS_SECONDS:
            self._failures.pop(child.name, None)
        why = self.why(child)
        self._again(child, f"{child.name} ended (exit {code}{f': {why}' if why else ''})")
        return ChildEnded(name=child.name, exit_code=code, why=why)

    def _again(self, child: Child, what: str) -> None:
        failures = self._failures.get(child.name, 0) + 1
        self._failures[child.name] = failures
        wait = backoff(failures, first=_RESTART_SECONDS, most=_LONGEST_RESTART_SECONDS)
        when = "" if wait == _RESTART_SECONDS else f" in {wait:g} s"
        self._say(f"{what}, starting it again{when}; its log is {child.log}")
        self._due.append((self._monotonic() + wait, child))


def _end(process: subprocess.Popen[bytes], *, seconds: float) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
