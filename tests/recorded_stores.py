"""Load into a server what an earlier version stored."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec

from hermes_celery.store import Database
from tests.support import DATA

#: The namespaces of the recording, by their number of shards.
NAMESPACES = {1: "recorded-1", 4: "recorded-4"}


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded key with its value."""

    key: str
    type: str
    value: Any
    ttl_ms: int | None


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """The recorded keys of one namespace, renamed to the test's namespace."""

    #: When it was recorded, Unix ms.
    now_ms: int
    entries: tuple[Entry, ...]

    def hashes(self, prefix: str) -> dict[str, dict[str, str]]:
        """Return the hashes whose keys begin with `prefix`, by the rest of the key."""
        return {
            entry.key[len(prefix) :]: entry.value
            for entry in self.entries
            if entry.key.startswith(prefix)
        }

    def load(self, database: Database) -> None:
        """Write all entries into a server."""
        for entry in self.entries:
            database.call("DEL", entry.key)
            database.call(*_WRITE[entry.type](entry.key, entry.value))
            if entry.ttl_ms is not None:
                database.call("PEXPIRE", entry.key, entry.ttl_ms)

    def unload(self, database: Database) -> None:
        """Delete all keys of the namespace: other tests read the whole server."""
        left = database.call("KEYS", f"*{database.keys.namespace}*")
        for key in (*left, *(entry.key for entry in self.entries)):
            database.call("DEL", key)


def recording(version: str, *, shards: int, namespace: str) -> Recording:
    """Return what `version` stored with `shards` shards, moved to `namespace`."""
    path: Path = DATA / "stored" / f"{version}.jsonl"
    name, other = NAMESPACES[shards], NAMESPACES[5 - shards]
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    lines = [line.replace(name, namespace) for line in rest if f'"key": "{{{other}}}' not in line]
    entries = [msgspec.json.decode(line, type=Entry) for line in lines]
    kept = tuple(entry for entry in entries if entry.key != other)
    return Recording(now_ms=json.loads(first)["now_ms"], entries=kept)


def content(value: Any) -> str | bytes:
    """Return a recorded text, or the bytes of a value that is not UTF-8."""
    return value if isinstance(value, str) else base64.b64decode(value["base64"])


_WRITE: dict[str, Any] = {
    "string": lambda key, value: ("SET", key, content(value)),
    "list": lambda key, value: ("RPUSH", key, *map(content, value)),
    "set": lambda key, value: ("SADD", key, *map(content, value)),
    "hash": lambda key, value: ("HSET", key, *(part for pair in value.items() for part in pair)),
    "zset": lambda key, value: (
        "ZADD", key, *(part for member, score in value for part in (score, member))
    ),
}  # fmt: skip
