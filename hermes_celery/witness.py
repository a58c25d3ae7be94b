"""A note on this machine's disk of what the server held, so that an empty server is noticed.

A Redis without persistence comes back from a restart with nothing, and nothing in it can say so.
The note is written by beats when they begin to lead, and read by them and by `doctor`; it names the
namespace by the mark that the first job left there.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from hermes_celery.store import Database


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What was there at a look."""

    #: The mark of the namespace, made with its first job; "" when there never was one.
    mark: str = ""
    jobs: int = 0
    #: When, Unix milliseconds of the server.
    at_ms: int = 0


class Witness:
    """The note for one namespace of one server."""

    def __init__(self, state_dir: Path, database: Database) -> None:
        self._database = database
        self._path = state_dir / f"seen-{database.keys.namespace}.json"

    def missing(self) -> Seen | None:
        """What was there before and is gone; None when all is well."""
        before = self._noted()
        return before if before.mark and before.jobs and self._mark() != before.mark else None

    def note(self) -> None:
        """Remember what is there now, unless there is nothing: a loss stays known until jobs come.

        A disk that refuses is no reason to stop.
        """
        keys = self._database.keys
        if not self._mark():
            return
        seen = Seen(
            mark=self._mark(),
            jobs=int(self._database.call("ZCARD", keys.jobs)),
            at_ms=self._database.now_ms(),
        )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._path.with_suffix(f".{os.getpid()}")
            scratch.write_bytes(msgspec.json.encode(seen))
            scratch.replace(self._path)
        except OSError:
            return

    def _mark(self) -> str:
        return str(self._database.call("GET", self._database.keys.mark) or "")

    def _noted(self) -> Seen:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Seen)
        except (OSError, msgspec.DecodeError):
            return Seen()
