"""Instants that many processes write into one file: the cheapest way to tell that a job ran.

One append of eight bytes per job, 2-3 µs, no lock and no server; the file's size is the count.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

_INSTANT = struct.Struct("=d")


class Stamps:
    """A file of instants, Unix seconds; opened once per process that writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened_by = -1
        self._file = -1

    def stamp(self) -> None:
        """Write down that it happened now."""
        if self._opened_by != os.getpid():
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            self._opened_by = os.getpid()
        os.write(self._file, _INSTANT.pack(time.time()))

    def count(self) -> int:
        """How often it has happened so far."""
        try:
            return self._path.stat().st_size // _INSTANT.size
        except FileNotFoundError:
            return 0

    def read(self) -> list[float]:
        """All instants, in order, Unix seconds."""
        if not self.count():
            return []
        content = self._path.read_bytes()[: self.count() * _INSTANT.size]
        return sorted(instant for (instant,) in _INSTANT.iter_unpack(content))
