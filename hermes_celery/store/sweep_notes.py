"""The findings of the leader's last check of all jobs, for `doctor`, and its open duties.

The same hash holds notes of jobs that are still to become incidents (`core.untold_jobs`).

A step that moves an index to quarantine stores a new mark in `Keys.refill`. The leader then reads
all records, and stores the mark as done only after it has read all of them for that mark. So if the
leader dies meanwhile, the next leader starts again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from hermes_celery.core.reconciling import whole
from hermes_celery.core.untold_jobs import UntoldJob, untold_field, untold_job
from hermes_celery.store.database import Database


class SweepNote(msgspec.Struct):
    """The result of one round of checks."""

    #: When the round ended, Unix ms; 0 if none has ended.
    ended_ms: int = 0
    #: Number of checked jobs.
    jobs: int = 0
    #: Number of findings that were repaired, and that were not.
    mended: int = 0
    left: int = 0
    #: Number of jobs that had stopped without a reason.
    stopped: int = 0


#: The field with the time of the last acknowledgement of a loss, Unix ms.
_GIVEN_UP = "given_up_ms"
#: The field with a copy of the mark of the namespace; see `keep_mark.lua`.
_MARK = "mark"
#: The field with the last mark for which all records were read.
_REFILLED = "refilled"
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]+")


def valid_mark(text: str | None) -> str:
    """Return a stored mark of a namespace; "" for an invalid one, as in `keep_mark.lua`."""
    return text if text is not None and _HEXADECIMAL.fullmatch(text) else ""


class SweepNotes:
    """Reads and writes the notes of one namespace."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._key = database.keys.sweep
        self._refill = database.keys.refill

    def write(self, note: SweepNote) -> None:
        """Store the result of a round. Raises StoreError."""
        pairs = [part for pair in msgspec.structs.asdict(note).items() for part in pair]
        self._database.call("HSET", self._key, *pairs)

    def read(self) -> SweepNote:
        """Return the result of the last round; an empty one if it is missing or unreadable.

        Raises StoreError when the key has another type.
        """
        names = SweepNote.__struct_fields__
        values = self._database.call("HMGET", self._key, *names)
        return SweepNote(**{name: whole(v) or 0 for name, v in zip(names, values, strict=True)})

    def untold(self) -> list[UntoldJob]:
        """Return the jobs that vanished and have no incident yet. Raises StoreError."""
        fields: dict[str, str] = self._database.call("HGETALL", self._key)
        notes = [untold_job(field, value) for field, value in sorted(fields.items())]
        return [note for note in notes if note is not None]

    def forget_untold(self, job_ids: Sequence[str]) -> None:
        """Delete the notes of jobs whose incidents were recorded. Raises StoreError."""
        if job_ids:
            self._database.call("HDEL", self._key, *map(untold_field, job_ids))

    def mark(self) -> str:
        """Return the copy of the namespace's mark; "" if there is none. Raises StoreError."""
        return valid_mark(self._database.call("HGET", self._key, _MARK))

    def give_up(self, now_ms: int) -> None:
        """Record that somebody acknowledged the loss of the server's data. Raises StoreError."""
        self._database.call("HSET", self._key, _GIVEN_UP, now_ms)

    def given_up_ms(self) -> int:
        """Return the time of the last acknowledgement, Unix ms; 0 for none. Raises StoreError."""
        return whole(self._database.call("HGET", self._key, _GIVEN_UP)) or 0

    def refill_asked(self) -> str:
        """Return the mark stored when an index was last moved; "" for none. Raises StoreError."""
        return str(self._database.call("GET", self._refill) or "")

    def refilled(self) -> str:
        """Return the last mark for which all records were read; "" for none. Raises StoreError."""
        return str(self._database.call("HGET", self._key, _REFILLED) or "")

    def note_refilled(self, mark: str) -> None:
        """Record that all records were read for this mark. Raises StoreError."""
        self._database.call("HSET", self._key, _REFILLED, mark)
