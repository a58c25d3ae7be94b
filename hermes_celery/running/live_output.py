"""A run's output on its way to Redis while the run goes on.

The runner writes chunks as they come. The heartbeat takes whole lines every half second, masked, so
that a secret is never cut in two. A private key is held back until it is complete. Output after the
first megabyte of a stream is not sent live: the end of the run stores the kept output.
"""

from __future__ import annotations

import threading

from hermes_celery.core.output import CAP_BYTES, PrintedPiece
from hermes_celery.masking.output import Redact, opens_pem, unredacted


class _Stream:
    """One stream: its output up to the cap, and the part not taken yet."""

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
    """Both streams of one run, written by one thread and taken by another."""

    def __init__(self) -> None:
        self._stdout, self._stderr = _Stream(), _Stream()
        self._redact: Redact = unredacted
        self._lock = threading.Lock()

    def mask_with(self, redact: Redact) -> None:
        """Set the function that masks this run's secrets. Call it before the first write."""
        self._redact = redact

    def write(self, chunk: bytes, *, is_error: bool = False) -> None:
        """Add a chunk read from the child."""
        with self._lock:
            (self._stderr if is_error else self._stdout).write(chunk)

    def take(self) -> PrintedPiece:
        """Return the new whole lines, masked."""
        with self._lock:
            return PrintedPiece(
                stdout=self._stdout.take(self._redact), stderr=self._stderr.take(self._redact)
            )

    def give_back(self, printed: PrintedPiece) -> None:
        """Put back output that could not be stored, for the next `take`."""
        with self._lock:
            self._stdout.give_back(printed.stdout)
            self._stderr.give_back(printed.stderr)
