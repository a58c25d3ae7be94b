"""A note on this machine's disk of what the server held, so that an empty server is noticed.

A Redis without persistence comes back from a restart with nothing, and nothing in it can say so.
The note is written by the leading beat (`scheduling.emptied_server`), and read by beats, by
`status` and by `doctor`. It names the namespace by the mark that the first job left there. Each
server has a note of its own, by the address that it is reached at.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from hashlib import sha256
from pathlib import Path

import msgspec

from hermes_celery.core.incidents import TroubleKind, incident_id
from hermes_celery.errors import error_text
from hermes_celery.events import RateLimitedLog, event
from hermes_celery.instant import from_ms, iso
from hermes_celery.store import Database, SweepNotes
from hermes_celery.store.sweep_notes import valid_mark

_log = logging.getLogger(__name__)

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
            f"the server lost its memory, with {self.jobs} jobs that were here at "
            f"{iso(from_ms(self.at_ms))} and all history; declared jobs come back, without their "
            "pauses and runs; turn the server's append-only file on, then restore a copy of its "
            "data or add the other jobs again"
        )

    @property
    def told(self) -> str:
        """The same as an incident, which stays until somebody acknowledges it."""
        mine = incident_id(TroubleKind.GONE, LOSS)
        return f"{self.text}; `hermes-celery incidents ack {mine}` says that you know"


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
        self._refused = RateLimitedLog()

    def missing(self) -> LastSeenJobs | None:
        """What was there before the server lost its memory; None when all is well.

        Jobs that are there again are no sign that all is: what is declared comes back without its
        pauses and history. A mark that is gone alone is no loss: see `keep_mark`.
        """
        before = self._noted()
        if not before.mark or not before.jobs:
            return None
        mark = self._mark()
        if mark == before.mark or (not mark and self._count()):
            return None
        return before if before.at_ms > SweepNotes(self._database).given_up_ms() else None

    def missing_still(self) -> LastSeenJobs | None:
        """What is `missing`, until somebody acknowledges that.

        A note of an older version may be of another server: that is told once, then forgotten.
        """
        before = self.missing()
        return before if before is not None and before.server else None

    def keep_mark(self) -> None:
        """Write the mark again where it alone was lost. Raises StoreError."""
        keys = self._database.keys
        mark = valid_mark(self._noted().mark) or secrets.token_hex(8)
        self._database.run(
            "keep_mark",
            keys={"mark": keys.mark, "jobs": keys.jobs, "sweep": keys.sweep},
            args={"new_mark": mark},
        )

    def give_up(self, now_ms: int) -> None:
        """Somebody acknowledged the loss: notes of before it, on any machine, tell of none."""
        SweepNotes(self._database).give_up(now_ms)
        self.write()

    def keep(self) -> None:
        """Remember what is there now, unless something is missing still."""
        if self.missing_still() is None:
            self.write()

    def write(self) -> None:
        """Remember what is there now, unless there is nothing: a loss stays known until jobs come.

        A disk that refuses is no reason to stop, but it is said: a loss would not be noticed.
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
        except OSError as error:
            if self._refused.may_say(time.monotonic()):
                event(_log, "loss.not_noted", level=logging.WARNING, path=self._path,
                      why=error_text(error))  # fmt: skip

    def _mark(self) -> str:
        copy = SweepNotes(self._database).mark()
        return copy or valid_mark(self._database.call("GET", self._database.keys.mark))

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
