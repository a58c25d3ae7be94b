"""The stored format: which programs can read what is stored in a namespace.

Formats are numbered. Format 1 is that of version 0.1.0, which stored no number. Format 2 adds keys,
fields and the number. Three places hold a format:

    {namespace}:format     JSON: the format of the newest program that wrote here, and the oldest
                           format whose programs can read everything (`needs`); absent: 1 and 1
    {namespace}:programs   the living programs, each with the format that it writes
    `needs` of a record    the oldest format that can read this record; absent: 1

A program refuses to start when `needs` is above its own format. When a record's `needs` is above
its format, it leaves that record alone. While `needs` is 1, programs of 0.1.0 may still write, even
after the number has risen: so this version must read whatever they write.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from hermes_celery.errors import FormatTooNew, RecordBroken
from hermes_celery.store.database import Database

#: The format that this program writes, and the newest that it reads.
FORMAT = 2
#: A program without a sign for this long counts as gone.
ALIVE_MS = 10_000
_Number = Annotated[int, msgspec.Meta(ge=1)]
_encode = msgspec.json.Encoder().encode


class StoredFormat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The content of `{namespace}:format`."""

    #: The format of the newest program that wrote here.
    format: _Number = 1
    #: The oldest format whose programs can read everything here.
    needs: _Number = 1
    #: The version of hermes-celery that wrote this, for display.
    program: str = ""
    #: The target format of the migration that is under way; None when there is none.
    to: _Number | None = None
    #: Where the migration goes on; "" for its beginning.
    cursor: str = ""


class Formats:
    """Reads and writes the stored format of one namespace and the signs of living programs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def read(self) -> StoredFormat:
        """Return the stored format. Raises RecordBroken when the key holds something else."""
        return self._decoded(*self._read_key())

    def require(self) -> StoredFormat:
        """Return the stored format.

        Raises FormatTooNew when this program is too old to read it, and RecordBroken.
        """
        return _checked(self.read(), namespace=self._keys.namespace)

    def write(
        self, new: StoredFormat, *, seen: StoredFormat | None, token: int, now_ms: int
    ) -> bool:
        """Write the format; with `seen` None, quarantine the unreadable value first.

        Returns False when somebody else changed it meanwhile. Raises LeaseLost when a younger
        leader is known.
        """
        kind, text = self._read_key()
        if seen is not None and self._decoded(kind, text) != seen:
            return False
        answer = self._database.run_fenced(
            "note_format",
            keys={
                "term": self._keys.term,
                "format": self._keys.format,
                "aside": self._keys.quarantine(self._keys.format, at_ms=now_ms),
            },
            args={
                "token": token,
                "kind": kind,
                "held": text,
                "new": _encode(new),
                "way": "keep" if seen is not None else "aside",
            },
        )
        return answer == "ok"

    def say_here(self, name: str, *, now_ms: int) -> StoredFormat:
        """Write this program's sign of life, and return the stored format.

        Raises FormatTooNew and RecordBroken, as `require` does.
        """
        programs = self._keys.programs
        self._database.call_many(
            [
                ("ZADD", programs, now_ms, f"{FORMAT} {name}"),
                ("ZREMRANGEBYSCORE", programs, "-inf", now_ms - ALIVE_MS),
            ]
        )
        return self.require()

    def say_gone(self, name: str) -> None:
        """Remove a program's sign of life."""
        self._database.call("ZREM", self._keys.programs, f"{FORMAT} {name}")

    def living(self, *, now_ms: int) -> dict[str, int]:
        """Return the living programs that write signs, each with the format that it writes."""
        since = now_ms - ALIVE_MS
        found = self._database.call("ZRANGEBYSCORE", self._keys.programs, since, "+inf")
        return dict(_program(entry) for entry in found)

    def older_than(self, number: int, *, now_ms: int) -> list[str]:
        """Return the living programs that write a format below `number`, for display.

        Programs of 0.1.0 write no sign with a format. Their workers are those without an entry;
        their beats are the subscribers of the wake-up channel without an entry. A stopping worker
        counts until its last run ends.
        """
        keys, since = self._keys, now_ms - ALIVE_MS
        entries, present, running, (_, waiting) = self._database.call_many(
            [
                ("ZRANGEBYSCORE", keys.programs, since, "+inf"),
                ("ZRANGEBYSCORE", keys.workers, since, "+inf"),
                ("ZRANGEBYSCORE", keys.heartbeats, now_ms, "+inf"),
                ("PUBSUB", "NUMSUB", keys.wake),
            ]
        )
        rows = self._database.hashes([keys.run(run_id) for run_id in running], "worker")
        runs = [row for row in rows if not isinstance(row, RecordBroken)]
        workers = {*present, *(run["worker"] for run in runs if "worker" in run)}
        living = dict(_program(entry) for entry in entries)
        older = [name for name, format in living.items() if format < number]
        if number > 1:
            older += [f"worker {name}" for name in workers if f"worker {name}" not in living]
            silent = int(waiting) - sum(name.startswith("beat ") for name in living)
            older += ["a beat"] * max(silent, 0)
        return sorted(older)

    def _read_key(self) -> tuple[str, bytes]:
        """Return the type of the key and, for a string, its value."""
        kind = str(self._database.call("TYPE", self._keys.format))
        text = self._database.raw("GET", self._keys.format) if kind == "string" else None
        return kind, text or b""

    def _decoded(self, kind: str, text: bytes) -> StoredFormat:
        if kind not in ("string", "none"):
            raise RecordBroken(self._keys.format, f"is a {kind}, not a string")
        if not text:
            return StoredFormat()
        try:
            return msgspec.json.decode(text, type=StoredFormat)
        except msgspec.DecodeError:
            shown = text[:40].decode(errors="backslashreplace")
            raise RecordBroken(self._keys.format, f"holds {shown!r}, not a stored format") from None


def too_new(needs: int) -> str | None:
    """Return why a record with this `needs` is unreadable here; None when it is readable."""
    if needs <= FORMAT:
        return None
    return f"needs a program that reads format {needs}: upgrade hermes-celery on this machine"


def _program(entry: Any) -> tuple[str, int]:
    number, _, name = str(entry).partition(" ")
    return name, int(number) if number.isdecimal() else 1


def _checked(stored: StoredFormat, *, namespace: str) -> StoredFormat:
    if stored.needs > FORMAT:
        raise FormatTooNew(namespace, needs=stored.needs, reads=FORMAT, program=stored.program)
    return stored
