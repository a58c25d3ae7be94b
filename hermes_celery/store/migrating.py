"""Migrate stored records to the format of this program, while everything keeps running.

The leader takes one small step in each pass of rescue, with its fencing token. A step reads and
changes a bounded number of records and returns a cursor for the next one. The cursor is stored, so
the next leader continues from there. If a leader is killed between a step and that write, the step
is repeated. So a step must be safe to repeat, and safe beside programs that still write the older
format.

A migration to a format that older programs cannot read (its `needs` is above their format) begins
only when no older program has been seen for some seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib import metadata

import msgspec

from hermes_celery.errors import RecordBroken
from hermes_celery.events import RateLimitedLog, event
from hermes_celery.store.database import Database
from hermes_celery.store.format import FORMAT, Formats, StoredFormat

_log = logging.getLogger(__name__)
#: How long no older program may be seen before it is shut out. A program that was cut off comes
#: back within a few seconds.
_QUIET_MS = 15_000


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """The change from one format to the next."""

    to: int
    #: The oldest format whose programs can read the result.
    needs: int
    #: Changes some records from a cursor on ("" for the beginning); returns the next cursor, or
    #: None when done. None if stored records stay as they are.
    step: Callable[[Database, str], str | None] | None


#: One migration for each format above 1. Format 2 only adds optional keys and fields.
MIGRATIONS = (Migration(to=FORMAT, needs=1, step=None),)


class Migrator:
    """Runs the pending migration, one step at a time; used by the leader."""

    def __init__(self, database: Database, *, migrations: Sequence[Migration] = MIGRATIONS) -> None:
        self._database = database
        self._formats = Formats(database)
        self._migrations = {migration.to: migration for migration in migrations}
        self._newest = max(self._migrations)
        #: When an older program was last seen, or when the search began.
        self._older_at_ms: int | None = None
        self._complaint = RateLimitedLog()

    def step(self, *, token: int, now_ms: int) -> bool:
        """Take one step; return False if none is needed, or if older programs prevent it.

        Raises StoreError, and LeaseLost when a younger leader is known.
        """
        try:
            stored = self._formats.read()
        except RecordBroken as error:
            event(_log, "format.broken", level=logging.ERROR, why=error)
            # An unreadable value cannot be a newer program's format, so it may be replaced.
            self._formats.write(StoredFormat(), seen=None, token=token, now_ms=now_ms)
            return True
        if stored.format >= self._newest:
            return False
        migration = self._migrations[stored.format + 1]
        if migration.needs > stored.needs:
            return self._shut_out(migration, stored, token=token, now_ms=now_ms)
        begin = stored.cursor if stored.to == migration.to else ""
        cursor = migration.step(self._database, begin) if migration.step else None
        self._formats.write(_after(migration, stored, cursor), seen=stored,
                           token=token, now_ms=now_ms)  # fmt: skip
        if migration.step and cursor is None:
            event(_log, "format.migrated", format=migration.to)
        return True

    def _shut_out(
        self, migration: Migration, stored: StoredFormat, *, token: int, now_ms: int
    ) -> bool:
        """Raise `needs`, so that no older program starts, once none was seen for a while."""
        older = self._formats.older_than(migration.needs, now_ms=now_ms)
        if older or self._older_at_ms is None:
            self._older_at_ms = now_ms
        if older and self._complaint.may_say(now_ms / 1000):
            event(_log, "format.waits", level=logging.WARNING, older=", ".join(older))
        if now_ms - self._older_at_ms < _QUIET_MS:
            return False
        needs = msgspec.structs.replace(stored, needs=migration.needs, program=_version())
        return self._formats.write(needs, seen=stored, token=token, now_ms=now_ms)


def _after(migration: Migration, stored: StoredFormat, cursor: str | None) -> StoredFormat:
    if cursor is None:
        return StoredFormat(format=migration.to, needs=stored.needs, program=_version())
    return msgspec.structs.replace(stored, to=migration.to, cursor=cursor)


def _version() -> str:
    try:
        return metadata.version("hermes-celery")
    except metadata.PackageNotFoundError:
        return ""
