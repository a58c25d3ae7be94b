"""Child processes, started in one order and stopped in the other.

A child that ends by itself is started again: after a second, and while it keeps ending after twice
the wait each time, up to a minute, since what cannot run must not spin. Nobody gives up on it: the
server, the disk or the setting that it ended for may be mended at any time. One that ran for a
minute begins again at a second. Children are in sessions of their own,
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
_LONGEST_RESTART_SECONDS = 60.0
#: One that ran for so long works; its next ending is a new trouble.
_WORKS_SECONDS = 60.0


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One child: what to run and how it ends."""

    name: str
    command: Sequence[str]
    log: Path
    #: Seconds from SIGTERM to SIGKILL.
    stop_seconds: float
    #: What the kernel sends it when we die without a word.
    death_signal: int = signal.SIGKILL


class Supervisor:
    """Starts, watches and stops the parts."""

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
        self._running: list[tuple[Part, subprocess.Popen[bytes]]] = []
        #: By part: when it was started, and how long it waited for that.
        self._started: dict[str, float] = {}
        self._waited: dict[str, float] = {}
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
        self._started[part.name] = self._monotonic()

    def pid(self, name: str) -> int | None:
        """The process id of a running part."""
        return next((p.pid for part, p in self._running if part.name == name), None)

    def exit_code(self, name: str) -> int | None:
        """How a part ended, if it has; None while it runs."""
        return next((p.poll() for part, p in self._running if part.name == name), None)

    def check(self) -> None:
        """Start parts again that ended by themselves, each after its wait."""
        for part, process in list(self._running):
            if process.poll() is not None:
                self._running.remove((part, process))
                self._ended(part, process.returncode)
        now = self._monotonic()
        ready = [part for at, part in self._due if at <= now]
        self._due = [(at, part) for at, part in self._due if at > now]
        for part in ready:
            try:
                self.start(part)
            except OSError as error:
                # No process, no file or no room left: that may pass.
                self._again(part, f"{part.name} cannot be started ({error})")

    def stop(self, *names: str) -> None:
        """End parts one after the other, each before the next; without names, all, last first."""
        for part, process in reversed(list(self._running)):
            if not names or part.name in names:
                self._running.remove((part, process))
                _end(process, seconds=part.stop_seconds)

    def _ended(self, part: Part, code: int) -> None:
        if self._monotonic() - self._started[part.name] >= _WORKS_SECONDS:
            self._waited.pop(part.name, None)
        self._again(part, f"{part.name} ended (exit {code})")

    def _again(self, part: Part, what: str) -> None:
        wait = min(self._waited.get(part.name, _RESTART_SECONDS / 2) * 2, _LONGEST_RESTART_SECONDS)
        self._waited[part.name] = wait
        when = "" if wait == _RESTART_SECONDS else f" in {wait:g} s"
        self._say(f"{what}, starting it again{when}; its log is {part.log}")
        self._due.append((self._monotonic() + wait, part))


def _end(process: subprocess.Popen[bytes], *, seconds: float) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
