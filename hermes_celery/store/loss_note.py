"""A note on this machine's disk about the server's jobs, to detect that the server lost its data.

A Redis without persistence restarts empty, and nothing in it shows that there were jobs. The
leading beat writes the note (`scheduling.emptied_server`); beats, `status` and `doctor` read it. It
identifies the namespace by the random mark that was stored with its first job. There is one note
for each server address.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from hashlib import sha256
from pathlib import Path

import msgspec

from hermes_celery.core.counted import counted
from hermes_celery.core.incidents import TroubleKind, incident_id
from hermes_celery.errors import error_text
from hermes_celery.events import RateLimitedLog, event
from hermes_celery.instant import from_ms, iso
from hermes_celery.store import Database, SweepNotes
from hermes_celery.store.sweep_notes import valid_mark

_log = logging.getLogger(__name__)

#: The subject of the incident about a loss.
LOSS = "jobs"


class LastSeenJobs(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs of a namespace at one time."""

    #: The server's address; "" in notes of older versions, which had one note for all servers.
    server: str = ""
    #: The mark of the namespace, made with its first job; "" if it never had a job.
    mark: str = ""
    jobs: int = 0
    #: The time of the note, Unix milliseconds of the server.
    at_ms: int = 0

    @property
    def text(self) -> str:
        """A message that the jobs are lost, and what to do."""
        lost = counted(self.jobs, "job that was", "jobs that were")
        return (
            f"the server lost its data: {lost} here at {iso(from_ms(self.at_ms))}, and all "
            "history. Turn the server's append-only file on, then restore a copy of its data or "
            "add the jobs again; the beat adds declared jobs itself, without their pauses and runs"
        )

    @property
    def incident_text(self) -> str:
        """The same for an incident, which stays open until it is acknowledged."""
        mine = incident_id(TroubleKind.GONE, LOSS)
        return f"{self.text}. To close the incident: `hermes-celery incidents ack {mine}`"


class LossNote:
    """Reads and writes the note about one namespace of one server."""

    def __init__(self, state_dir: Path, database: Database) -> None:
        self._database = database
        self._server = database.address
        namespace = database.keys.namespace
        digest = sha256(self._server.encode()).hexdigest()[:12]
        self._path = state_dir / f"seen-{namespace}-{digest}.json"
        #: The common note for all servers, as older versions wrote it.
        self._old_path = state_dir / f"seen-{namespace}.json"
        self._refused = RateLimitedLog()

    def missing(self) -> LastSeenJobs | None:
        """Return the jobs that the server has lost; None when it has lost nothing.

        Jobs that exist now do not disprove a loss: declared jobs come back without their pauses and
        history. If only the mark is missing, that is no loss: see `keep_mark`.
        """
        before = self._noted()
        if not before.mark or not before.jobs:
            return None
        mark = self._mark()
        if mark == before.mark or (not mark and self._count()):
            return None
        return before if before.at_ms > SweepNotes(self._database).given_up_ms() else None

    def missing_still(self) -> LastSeenJobs | None:
        """Return what is `missing`, until somebody acknowledges the loss.

        A note of an older version may describe another server: it is reported once, then forgotten.
        """
        before = self.missing()
        return before if before is not None and before.server else None

    def keep_mark(self) -> None:
        """Write the mark again if only the mark was lost. Raises StoreError."""
        keys = self._database.keys
        mark = valid_mark(self._noted().mark) or secrets.token_hex(8)
        self._database.run(
            "keep_mark",
            keys={"mark": keys.mark, "jobs": keys.jobs, "sweep": keys.sweep},
            args={"new_mark": mark},
        )

    def give_up(self, now_ms: int) -> None:
        """Accept the loss after an acknowledgement: older notes on any machine are ignored then."""
        SweepNotes(self._database).give_up(now_ms)
        self.write()

    def keep(self) -> None:
        """Write the note, unless an unacknowledged loss is known."""
        if self.missing_still() is None:
            self.write()

    def write(self) -> None:
        """Write the note about the current jobs. On a server without a mark, keep the old note.

        Such a server has lost its jobs, or never had any. If the disk refuses, log a warning and go
        on: a later loss would stay unnoticed.
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
    """Return the note in this file; None if it is missing or unreadable."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=LastSeenJobs)
    except (OSError, msgspec.DecodeError):
        return None
