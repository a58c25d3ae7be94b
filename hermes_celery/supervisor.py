"""Child processes, started in one order and stopped in the other.

A child that ends by itself is started again after a second, and after five such endings within a
minute everything is stopped: what cannot run must not spin. Children are in sessions of their own,
so that Ctrl-C reaches only us; and each dies with us, however we die (Linux).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from hermes_celery.parent_death import die_with_parent

_RESTART_SECONDS = 1.0
_WINDOW_SECONDS = 60.0
_MAX_RESTARTS = 5


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One child: what to run and how it ends."""

    name: str
    command: Sequence[str]
    log: Path
    #: Seconds from SIGTERM to SIGKILL.
    stop_seconds: float
    #: What the kernel sends it when we die without a word.
    death_signal: int = signal.SIGKILL


class GaveUp(Exception):
    """A part ended again and again."""


class Supervisor:
    """Starts, watches and stops the parts."""

    def __init__(self, *, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._environment = dict(environment)
        self._say = say
        self._running: list[tuple[Part, subprocess.Popen[bytes]]] = []
        self._endings: dict[str, list[float]] = {}
        self._due: list[tuple[float, Part]] = []

    def start(self, part: Part) -> None:
        """Start a part; its output goes to its log."""
        with part.log.open("ab") as log:
            process = subprocess.Popen(
                part.command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(part.death_signal),
            )
        self._running.append((part, process))

    def pid(self, name: str) -> int | None:
        """The process id of a running part."""
        return next((p.pid for part, p in self._running if part.name == name), None)

    def exit_code(self, name: str) -> int | None:
        """How a part ended, if it has; None while it runs."""
        return next((p.poll() for part, p in self._running if part.name == name), None)

    def check(self) -> None:
        """Start parts again that ended by themselves. Raises GaveUp when one keeps ending."""
        for part, process in list(self._running):
            if process.poll() is not None:
                self._running.remove((part, process))
                self._ended(part, process.returncode)
        now = time.monotonic()
        ready = [part for at, part in self._due if at <= now]
        self._due = [(at, part) for at, part in self._due if at > now]
        for part in ready:
            self.start(part)

    def stop(self, *names: str) -> None:
        """End parts one after the other, each before the next; without names, all, last first."""
        for part, process in reversed(list(self._running)):
            if not names or part.name in names:
                self._running.remove((part, process))
                _end(process, seconds=part.stop_seconds)

    def _ended(self, part: Part, code: int) -> None:
        now = time.monotonic()
        recent = [at for at in self._endings.get(part.name, []) if now - at < _WINDOW_SECONDS]
        self._endings[part.name] = [*recent, now]
        if len(recent) >= _MAX_RESTARTS:
            raise GaveUp(f"{part.name} keeps ending (exit {code}); its log is {part.log}")
        self._say(f"{part.name} ended (exit {code}), starting it again; its log is {part.log}")
        self._due.append((now + _RESTART_SECONDS, part))


def _end(process: subprocess.Popen[bytes], *, seconds: float) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
