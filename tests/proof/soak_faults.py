"""Damage the store itself: keys of other types, dead entries, malformed messages."""

from __future__ import annotations

import json
import random
import re
import secrets
from collections.abc import Callable

import msgspec

from hermes_celery.core.run import run_id_of
from hermes_celery.store import Database
from hermes_celery.store.keys import Keys

#: Keys whose loss harms one job only: "<prefix><family>:<job id>...".
_OF_A_JOB = re.compile(r"(active|held|output|stderr|delivery|troubles):([0-9a-f]{12})\b")
_SPOILT = "spoilt"
#: Malformed messages; a worker that takes one goes on.
LETTERS: tuple[bytes, ...] = (
    b"",
    b"null",
    b"17",
    b"[]",
    b"{}",
    b"this is no JSON",
    b"\x00\xff\xfe binary \x80",
    b'{"body": 5, "headers": {}, "properties": {}}',
    json.dumps({"body": "e30=", "headers": ["a", "list"], "properties": {}}).encode(),
    json.dumps({"body": "%%%", "headers": {"task": "x", "id": "x"}, "properties": {}}).encode(),
    b"[" * 5_000 + b"]" * 5_000,
    json.dumps({"body": "x" * 1_000_000}).encode(),
)


class Spoilt(msgspec.Struct, frozen=True, kw_only=True):
    """A key that got another type."""

    key: str
    job_id: str


class Vandal:
    """Writes to the store what no program of this project writes."""

    def __init__(self, database: Database, *, dice: random.Random) -> None:
        self._database = database
        self._dice = dice

    @property
    def _keys(self) -> Keys:
        return self._database.keys

    def spoil(self) -> Spoilt | None:
        """Give one key of one job another type; return None when there is no key."""
        prefix = self._keys.prefix
        found = [
            Spoilt(key=str(key), job_id=match[2])
            for key in self._database.client.scan_iter(prefix.replace("{", "[{]") + "*", count=500)
            if (match := _OF_A_JOB.match(str(key).removeprefix(prefix)))
        ]
        if not found:
            return None
        spoilt = self._dice.choice(found)
        self._retype(spoilt.key)
        return spoilt

    def _retype(self, key: str) -> None:
        kind = str(self._database.call("TYPE", key))
        ways: dict[str, Callable[[], object]] = {
            "string": lambda: self._database.call("SET", key, _SPOILT),
            "list": lambda: self._database.call("RPUSH", key, _SPOILT),
            "set": lambda: self._database.call("SADD", key, _SPOILT),
            "zset": lambda: self._database.call("ZADD", key, 1, _SPOILT),
            "hash": lambda: self._database.call("HSET", key, _SPOILT, _SPOILT),
        }
        self._database.call("DEL", key)
        ways[self._dice.choice([name for name in ways if name != kind])]()

    def haunt(self, job_id: str) -> None:
        """Add a run to the job's active runs, without message, index entry or record.

        A script that fails after its second write leaves such a run behind.
        """
        ghost = run_id_of(job_id, self._database.now_ms(), manual=secrets.token_hex(4))
        self._database.call("HSET", self._keys.active(job_id), ghost, "queued")

    def malform(self) -> None:
        """Push an unreadable message onto one of the queues."""
        queue = self._dice.choice([self._keys.default_queue, self._keys.delivery_queue])
        self._database.call("LPUSH", queue, self._dice.choice(LETTERS))
