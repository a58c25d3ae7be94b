"""What the leader's last round over all jobs found, for `doctor`."""

from __future__ import annotations

import msgspec

from hermes_celery.reconciling import whole
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


class SweepNotes:
    """The note in one namespace."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._key = database.keys.sweep

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
