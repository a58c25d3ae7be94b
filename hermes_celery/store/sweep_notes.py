"""What the leader's last round over all jobs found, for `doctor`, and what it still has to do.

The same hash holds the notes of jobs that are still to be told of (`core.untold_jobs`).

Where an index was moved away, the same step leaves a mark in `Keys.refill`. The leader reads all
records until it has done so for the mark that stands there, and only then notes the mark as done.
So a leader that dies meanwhile is followed by one that begins again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from hermes_celery.core.reconciling import whole
from hermes_celery.core.untold_jobs import UntoldJob, untold_field, untold_job
from hermes_celery.store.database import Database


class SweepNote(msgspec.Struct):
    """One round."""

    #: Unix ms; 0: none has ended.
    ended_ms: int = 0
    #: How many jobs were looked at.
    jobs: int = 0
    #: How much was wrong and was mended, and how much was left.
    mended: int = 0
    left: int = 0
    #: Jobs that had stopped for no reason.
    stopped: int = 0


#: The field with the instant at which somebody acknowledged a loss last, Unix ms.
_GIVEN_UP = "given_up_ms"
#: The field with a copy of the mark of the namespace; see `keep_mark.lua`.
_MARK = "mark"
#: The field that holds the mark which all records were read for.
_REFILLED = "refilled"
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]+")


def valid_mark(text: str | None) -> str:
    """A mark of a namespace as it was stored; "" for what is none, as `keep_mark.lua` reads it."""
    return text if text is not None and _HEXADECIMAL.fullmatch(text) else ""


class SweepNotes:
    """The notes in one namespace."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._key = database.keys.sweep
        self._refill = database.keys.refill

    def write(self, note: SweepNote) -> None:
        """Leave the note. Raises StoreError."""
        pairs = [part for pair in msgspec.structs.asdict(note).items() for part in pair]
        self._database.call("HSET", self._key, *pairs)

    def read(self) -> SweepNote:
        """The note; an empty one where there is none, or none that can be read.

        Raises StoreError when the key is no hash.
        """
        names = SweepNote.__struct_fields__
        values = self._database.call("HMGET", self._key, *names)
        return SweepNote(**{name: whole(v) or 0 for name, v in zip(names, values, strict=True)})

    def untold(self) -> list[UntoldJob]:
        """Jobs that were taken away and that nobody was told of yet. Raises StoreError."""
        fields: dict[str, str] = self._database.call("HGETALL", self._key)
        notes = [untold_job(field, value) for field, value in sorted(fields.items())]
        return [note for note in notes if note is not None]

    def forget_untold(self, job_ids: Sequence[str]) -> None:
        """They were told. Raises StoreError."""
        if job_ids:
            self._database.call("HDEL", self._key, *map(untold_field, job_ids))

    def mark(self) -> str:
        """The copy of the namespace's mark; "" where there is none. Raises StoreError."""
        return valid_mark(self._database.call("HGET", self._key, _MARK))

    def give_up(self, now_ms: int) -> None:
        """Somebody acknowledged that the server lost what it held before. Raises StoreError."""
        self._database.call("HSET", self._key, _GIVEN_UP, now_ms)

    def given_up_ms(self) -> int:
        """When that was last, Unix ms; 0: never. Raises StoreError."""
        return whole(self._database.call("HGET", self._key, _GIVEN_UP)) or 0

    def refill_asked(self) -> str:
        """The mark that the last move of an index left; "" for none. Raises StoreError."""
        return str(self._database.call("GET", self._refill) or "")

    def refilled(self) -> str:
        """The mark that all records were read for last; "" for none. Raises StoreError."""
        return str(self._database.call("HGET", self._key, _REFILLED) or "")

    def note_refilled(self, mark: str) -> None:
        """All records were read for this mark. Raises StoreError."""
        self._database.call("HSET", self._key, _REFILLED, mark)
