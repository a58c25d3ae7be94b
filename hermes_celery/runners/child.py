"""One child process: started in a process group of its own, read, limited, and ended as a group.

Works under every Celery pool, because it needs neither signals nor a main thread. The group gets
SIGTERM, then SIGKILL five seconds later; what a script left in its group when it exited ends with
it, so that a run is over when it is over (`setsid` leaves the group for what shall live on).
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import msgspec

from hermes_celery.output import Capture

TERM_SECONDS = 5.0
#: How often the child is looked at while it prints nothing.
_POLL_SECONDS = 0.1
#: How long output may trickle in from its group after the child itself has exited.
_DRAIN_SECONDS = 0.5
_CHUNK = 65_536


class Ending(StrEnum):
    """Why a child ended."""

    EXITED = "exited"
    TIMEOUT = "timeout"
    #: Its run was asked to stop.
    STOPPED = "stopped"


class Stop(Protocol):
    """What tells a run to stop: an event that somebody else sets."""

    def is_set(self) -> bool:
        """Whether the run should end now."""


class Reaping(Protocol):
    """Who ends process groups when this very process dies: `reaper.Reaper`."""

    def watch(self, group: int) -> None:
        """End this group if we die."""

    def release(self, group: int) -> None:
        """It is over; leave it alone."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a child ended and what it printed."""

    ending: Ending
    #: Negative: ended by that signal.
    exit_code: int
    stdout: bytes
    stderr: bytes


def run_child(
    argv: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    timeout_seconds: float,
    stop: Stop,
    reaper: Reaping,
) -> Ended:
    """Run a command to its end, its time limit, or until `stop` is set.

    Raises OSError when it cannot be started.
    """
    process = subprocess.Popen(
        argv,
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    reaper.watch(process.pid)
    try:
        with _Streams(process) as streams:
            ending = _wait(process, streams, timeout_seconds=timeout_seconds, stop=stop)
            if ending is not Ending.EXITED:
                _terminate(process, streams)
            streams.drain(_DRAIN_SECONDS)
            return Ended(
                ending=ending,
                exit_code=process.wait(),
                stdout=streams.stdout.content(),
                stderr=streams.stderr.content(),
            )
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        reaper.release(process.pid)


class _Streams:
    """A child's stdout and stderr, read as they come."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.stdout, self.stderr = Capture(), Capture()
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
        """Whether anybody can still write."""
        return bool(self._selector.get_map())

    def read(self, timeout_seconds: float) -> bool:
        """Read what comes within the time; False when nothing did."""
        ready = self._selector.select(timeout_seconds)
        for key, _ in ready:
            chunk = _read(key.fd)
            if chunk is None:
                continue
            if chunk:
                key.data.write(chunk)
            else:
                self._selector.unregister(key.fileobj)
        return bool(ready)

    def drain(self, seconds: float) -> None:
        """Read until nobody can write any more, or until the time is over."""
        deadline = time.monotonic() + seconds
        while self.open and (left := deadline - time.monotonic()) > 0:
            self.read(left)


def _read(descriptor: int) -> bytes | None:
    try:
        return os.read(descriptor, _CHUNK)
    except BlockingIOError:
        return None


def _wait(
    process: subprocess.Popen[bytes], streams: _Streams, *, timeout_seconds: float, stop: Stop
) -> Ending:
    deadline = time.monotonic() + timeout_seconds
    while True:
        if stop.is_set():
            return Ending.STOPPED
        if time.monotonic() >= deadline:
            return Ending.TIMEOUT
        if streams.open:
            streams.read(min(_POLL_SECONDS, max(deadline - time.monotonic(), 0)))
            if streams.open and process.poll() is None:
                continue
        if _exited(process):
            return Ending.EXITED


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
