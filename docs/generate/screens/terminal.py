"""A terminal of 80 columns: what a command prints in it, colours included."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

COLUMNS, LINES = 80, 40
_PATIENCE_SECONDS = 60.0


class Typed:
    """One command that was typed, and what it has printed so far."""

    def __init__(
        self, words: Sequence[str], *, environment: Mapping[str, str], directory: Path
    ) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            words,
            env=environment,
            cwd=directory,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._printed = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """All that was printed, with the codes of its colours."""
        return self._printed.decode().replace("\r\n", "\n")

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def ended(self) -> str:
        """Wait for the end, and return what was printed. Raises TimeoutExpired."""
        try:
            self._process.wait(_PATIENCE_SECONDS)
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._reader.join()
        os.close(self._ours)
        return self.text

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._ours, 65_536)
            except OSError:
                return  # Linux says so when the last one who could write has gone
            if not piece:
                return
            self._printed += piece


def wait_until(is_so: Callable[[], bool], *, what: str) -> None:
    """Wait for a state. Raises TimeoutError."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {_PATIENCE_SECONDS:g} s")
        time.sleep(0.1)
