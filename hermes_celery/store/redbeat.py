"""Read the schedule that RedBeat keeps in Redis, without changing it.

RedBeat has a hash for each entry, `<prefix><name>`, with its `definition` and `meta` as JSON; a
sorted set of all entries, `<prefix>:schedule`; and a set of the names that the project's
`beat_schedule` declares, `<prefix>:statics`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from hermes_celery.errors import RecordBroken
from hermes_celery.store.database import Database

DEFAULT_PREFIX = "redbeat:"
_PAGE = 500


class RedBeatRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One entry as RedBeat wrote it."""

    #: The name of its key after the prefix.
    name: str
    #: JSON; "" if missing.
    definition: str = ""
    meta: str = ""
    #: Why it is unreadable; "" if it is readable.
    fault: str = ""
    #: Whether `beat_schedule` declares it.
    is_static: bool = False


class RedBeat:
    """Reads the entries under one prefix."""

    def __init__(self, database: Database, *, prefix: str = DEFAULT_PREFIX) -> None:
        self._database = database
        self.prefix = prefix

    def count(self) -> int:
        """Return the number of entries. Raises StoreError."""
        return int(self._database.call("ZCARD", f"{self.prefix}:schedule"))

    def names(self, *, limit: int) -> list[str]:
        """Return the names of entries that `beat_schedule` does not declare. Raises StoreError."""
        statics = self._statics()
        keys = self._database.call("ZRANGE", f"{self.prefix}:schedule", 0, limit - 1)
        return [name for name in map(self._name, keys) if name not in statics]

    def records(self) -> Iterator[RedBeatRecord]:
        """Yield all entries, sorted by name. Raises StoreError."""
        statics = self._statics()
        keys = sorted(self._database.call("ZRANGE", f"{self.prefix}:schedule", 0, -1))
        for start in range(0, len(keys), _PAGE):
            page = keys[start : start + _PAGE]
            yield from self._page(page, statics)

    def _page(self, keys: Sequence[str], statics: set[str]) -> Iterator[RedBeatRecord]:
        rows = self._database.hashes(keys, "definition", "meta")
        for key, row in zip(keys, rows, strict=True):
            name = self._name(key)
            if isinstance(row, RecordBroken):
                yield RedBeatRecord(name=name, fault=row.what)
                continue
            yield RedBeatRecord(
                name=name,
                definition=row.get("definition", ""),
                meta=row.get("meta", ""),
                is_static=name in statics,
            )

    def _statics(self) -> set[str]:
        return set(self._database.call("SMEMBERS", f"{self.prefix}:statics"))

    def _name(self, key: str) -> str:
        return key.removeprefix(self.prefix)
