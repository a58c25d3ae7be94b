"""A note on this machine's disk of what the server held, so that an empty server is noticed.

A Redis without persistence comes back from a restart with nothing, and nothing in it can say so.
The note is written by the leading beat (`scheduling.loss_watch`), and read by beats, by `status`
and by `doctor`. It names the namespace by the mark that the first job left there. Each server has a
note of its own, by the address that it is reached at.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import msgspec

from hermes_celery.core.incidents import TroubleKind, incident_id
from hermes_celery.instant import from_ms, iso
from hermes_celery.store import Database

#: What the incident of a loss is about.
LOSS = "jobs"


class LastSeenJobs(msgspec.Struct, frozen=True, kw_only=True):
    """What was there at a look."""

    #: The server, by its address; "" in notes of older versions, which knew one server only.
    server: str = ""
    #: The mark of the namespace, made with its first job; "" when there never was one.
    mark: str = ""
    jobs: int = 0
    #: When, Unix milliseconds of the server.
    at_ms: int = 0

    @property
    def text(self) -> str:
        """That they are gone, and what to do."""
        return (
            f"{self.jobs} jobs that were here at {iso(from_ms(self.at_ms))} are gone: the server "
            "lost its memory; turn its append-only file on, then restore a copy of its data or add "
            "the jobs again; `hermes-celery incidents ack "
            f"{incident_id(TroubleKind.GONE, LOSS)}` gives them up"
        )


class LossNote:
    """The note for one namespace of one server."""

    def __init__(self, state_dir: Path, database: Database) -> None:
        self._database = database
        self._server = database.address
        namespace = database.keys.namespace
        digest = sha256(self._server.encode()).hexdigest()[:12]
        self._path = state_dir / f"seen-{namespace}-{digest}.json"
        #: The only note of all servers, as older versions wrote it.
        self._old_path = state_dir / f"seen-{namespace}.json"

    def missing(self) -> LastSeenJobs | None:
        """What was there before and is gone; None when all is well."""
        before = self._noted()
        return before if before.mark and before.jobs and self._mark() != before.mark else None

    def missing_still(self) -> LastSeenJobs | None:
        """What is `missing`, unless as many jobs are there again.

        A note of an older version may be of another server: that is told once, then forgotten.
        """
        before = self.missing()
        if before is None or not before.server or self._count() >= before.jobs:
            return None
        return before

    def keep(self) -> None:
        """Remember what is there now, unless something is missing still."""
        if self.missing_still() is None:
            self.write()

    def write(self) -> None:
        """Remember what is there now, unless there is nothing: a loss stays known until jobs come.

        A disk that refuses is no reason to stop.
        """
        mark = self._mark()
        if not mark:
            return
        seen = LastSeenJobs(
            server=self._server, mark=mark, jobs=self._count(), at_ms=self._database.now_ms()
        )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._path.with_suffix(f".{os.getpid()}")
            scratch.write_bytes(msgspec.json.encode(seen))
            scratch.replace(self._path)
            self._old_path.unlink(missing_ok=True)
        except OSError:
            return

    def _mark(self) -> str:
        return str(self._database.call("GET", self._database.keys.mark) or "")

    def _count(self) -> int:
        return int(self._database.call("ZCARD", self._database.keys.jobs))

    def _noted(self) -> LastSeenJobs:
        return _read(self._path) or _read(self._old_path) or LastSeenJobs()


def _read(path: Path) -> LastSeenJobs | None:
    """A note; None where there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=LastSeenJobs)
    except (OSError, msgspec.DecodeError):
        return None
