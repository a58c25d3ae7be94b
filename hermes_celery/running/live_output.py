"""What a run prints while it runs, on its way to Redis.

The runner writes chunks as they come; the heartbeat takes whole lines every half second, masked, so
that a secret is never cut in two. A private key is held back until it is whole. What comes after
the first megabyte of a stream is left to the end of the run, which stores the output as it is kept.
"""

from __future__ import annotations

import threading

from hermes_celery.core.output import CAP_BYTES, PrintedPiece
from hermes_celery.masking.output import Redact, opens_pem, unredacted


class _Stream:
    """One stream: what came, up to the cap, and how far it was taken."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._ready = b""
        self._room = CAP_BYTES

    def write(self, chunk: bytes) -> None:
        taken = chunk[: self._room]
        self._room -= len(taken)
        self._waiting += taken

    def take(self, redact: Redact) -> bytes:
        ready, self._ready = self._ready, b""
        return ready + self._lines(redact)

    def give_back(self, printed: bytes) -> None:
        self._ready = printed + self._ready

    def _lines(self, redact: Redact) -> bytes:
        cut = max(self._waiting.rfind(b"\n"), self._waiting.rfind(b"\r")) + 1
        lines = bytes(self._waiting[:cut])
        if not lines or opens_pem(lines):
            return b""
        del self._waiting[:cut]
        return redact(lines)


class LiveOutput:
    """Both streams of one run; written by one thread, taken by another."""

    def __init__(self) -> None:
        self._stdout, self._stderr = _Stream(), _Stream()
        self._redact: Redact = unredacted
        self._lock = threading.Lock()

    def mask_with(self, redact: Redact) -> None:
        """Say what masks this run's secrets, before anything is written."""
        self._redact = redact

    def write(self, chunk: bytes, *, is_error: bool = False) -> None:
        """Take what was read from the child."""
        with self._lock:
            (self._stderr if is_error else self._stdout).write(chunk)

    def take(self) -> PrintedPiece:
        """The whole lines that are new, masked."""
        with self._lock:
            return PrintedPiece(
                stdout=self._stdout.take(self._redact), stderr=self._stderr.take(self._redact)
            )

    def give_back(self, printed: PrintedPiece) -> None:
        """Keep for the next look what could not be stored."""
        with self._lock:
            self._stdout.give_back(printed.stdout)
            self._stderr.give_back(printed.stderr)
