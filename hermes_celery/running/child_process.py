"""Run one child process: start it in its own process group, read it, limit it, end the group.

Works under every Celery pool, because it needs neither signals nor the main thread. A group that
must end gets SIGTERM, and SIGKILL five seconds later. When the child exits, the rest of its group
is killed, so that nothing of the run goes on. A process that must survive can leave the group with
`setsid`.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import msgspec

from hermes_celery.core.output import OutputCapture

TERM_SECONDS = 5.0
#: Seconds between two checks of a child that prints nothing.
_POLL_SECONDS = 0.1
#: Seconds to read output of the group after the child itself has exited.
_DRAIN_SECONDS = 0.5
_CHUNK = 65_536
#: The child becomes the command only after its group is watched, so a worker that is killed in
#: between leaves no process behind. Costs a millisecond.
_GATE = 'read -r _ && exec "$@" </dev/null'


class ChildEnding(StrEnum):
    """The reasons why a child ended."""

    EXITED = "exited"
    TIMEOUT = "timeout"
    #: The child showed no activity for too long.
    IDLE = "idle"
    #: The run was asked to stop.
    STOPPED = "stopped"


class StopSignal(Protocol):
    """A signal that asks a run to stop: an event that another thread sets."""

    def is_set(self) -> bool:
        """Return whether the run should end now."""


class OutputListener(Protocol):
    """Receives a child's output while the child runs: `live_output.LiveOutput`."""

    def write(self, chunk: bytes, *, is_error: bool = False) -> None:
        """Take one chunk of output."""


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A command to run as a child, with its working directory and environment."""

    argv: Sequence[str]
    cwd: Path
    #: The whole environment: nothing is inherited from this process.
    environment: Mapping[str, str]


class ChildLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Time limits of a child, in seconds."""

    timeout_seconds: float = math.inf
    #: The longest time without output and without a change of the watched files.
    idle_seconds: float = math.inf
    #: Files whose change counts as activity.
    watched: tuple[Path, ...] = ()


class ReapsOrphans(Protocol):
    """Kills process groups when this process dies: `orphan_reaper.OrphanReaper`."""

    def watch(self, group: int) -> None:
        """Kill this group if this process dies."""

    def release(self, group: int) -> None:
        """Stop watching a group that has ended."""


class ChildResult(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a child and what it printed."""

    ending: ChildEnding
    #: A negative code is the number of the signal that ended the child.
    exit_code: int
    stdout: bytes
    stderr: bytes


def run_child(
    command: Command,
    *,
    limits: ChildLimits,
    stop: StopSignal,
    reaper: ReapsOrphans,
    listener: OutputListener | None = None,
) -> ChildResult:
    """Run a command until it exits, reaches a limit, or `stop` is set.

    Raises OSError when it cannot be started.
    """
    program = command.argv[0]
    if shutil.which(program, path=command.environment.get("PATH", os.defpath)) is None:
        raise FileNotFoundError(f"command not found: {program}")
    process = subprocess.Popen(
        ["/bin/sh", "-c", _GATE, "sh", *command.argv],
        cwd=command.cwd,
        env=dict(command.environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    reaper.watch(process.pid)
    _open_gate(process)
    try:
        with _Streams(process, listener=listener) as streams:
            ending = _wait(process, streams, limits=limits, stop=stop)
            if ending is not ChildEnding.EXITED:
                _terminate(process, streams)
            streams.drain(_DRAIN_SECONDS)
            return ChildResult(
                ending=ending,
                exit_code=process.wait(),
                stdout=streams.stdout.content(),
                stderr=streams.stderr.content(),
            )
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        reaper.release(process.pid)


def _open_gate(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"\n")
            process.stdin.close()


class _Streams:
    """A child's stdout and stderr, read while the child runs."""

    def __init__(
        self, process: subprocess.Popen[bytes], *, listener: OutputListener | None
    ) -> None:
        self.stdout, self.stderr = OutputCapture(), OutputCapture()
        self._listener = listener
        self.last_read_at = time.monotonic()
        self._selector = selectors.DefaultSelector()
        for pipe, capture in ((process.stdout, self.stdout), (process.stderr, self.stderr)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._selector.register(pipe, selectors.EVENT_READ, capture)
        self._process = process

    def __enter__(self) -> _Streams:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    @property
    def open(self) -> bool:
        """True while a process holds one of the pipes open."""
        return bool(self._selector.get_map())

    def read(self, timeout_seconds: float) -> bool:
        """Read output for up to `timeout_seconds`; return False if none came."""
        ready = self._selector.select(timeout_seconds)
        for key, _ in ready:
            chunk = _read(key.fd)
            if chunk is None:
                continue
            if chunk:
                self._take(chunk, key.data)
            else:
                self._selector.unregister(key.fileobj)
        return bool(ready)

    def _take(self, chunk: bytes, capture: OutputCapture) -> None:
        self.last_read_at = time.monotonic()
        capture.write(chunk)
        if self._listener is not None:
            self._listener.write(chunk, is_error=capture is self.stderr)

    def drain(self, seconds: float) -> None:
        """Read until both pipes are closed, or for at most `seconds`."""
        deadline = time.monotonic() + seconds
        while self.open and (left := deadline - time.monotonic()) > 0:
            self.read(left)


def _read(descriptor: int) -> bytes | None:
    try:
        return os.read(descriptor, _CHUNK)
    except BlockingIOError:
        return None


def _wait(
    process: subprocess.Popen[bytes], streams: _Streams, *, limits: ChildLimits, stop: StopSignal
) -> ChildEnding:
    deadline = time.monotonic() + limits.timeout_seconds
    while True:
        ending = _limit_reached(streams, deadline=deadline, limits=limits, stop=stop)
        if ending is not None:
            return ending
        if streams.open:
            streams.read(min(_POLL_SECONDS, max(deadline - time.monotonic(), 0)))
            if streams.open and process.poll() is None:
                continue
        if _exited(process):
            return ChildEnding.EXITED


def _limit_reached(
    streams: _Streams, *, deadline: float, limits: ChildLimits, stop: StopSignal
) -> ChildEnding | None:
    now = time.monotonic()
    if stop.is_set():
        return ChildEnding.STOPPED
    if now >= deadline:
        return ChildEnding.TIMEOUT
    silent_for = now - streams.last_read_at
    if silent_for >= limits.idle_seconds:
        age = min(map(_age_seconds, limits.watched), default=math.inf)
        if age >= limits.idle_seconds:
            return ChildEnding.IDLE
    return None


def _age_seconds(path: Path) -> float:
    """Return the seconds since a file changed, by the wall clock; infinite if it is missing."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return math.inf


def _exited(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _terminate(process: subprocess.Popen[bytes], streams: _Streams) -> None:
    _signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + TERM_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if not streams.open or not streams.read(_POLL_SECONDS):
            _exited(process)
    _signal_group(process.pid, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return
