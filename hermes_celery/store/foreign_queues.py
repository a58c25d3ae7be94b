"""Queues that workers without our hooks consume, as a leader last saw them.

A thread of the leader asks the workers and writes them (`foreign_workers`). Manual dispatch,
`doctor` and `status` read them. All times are the server's, Unix milliseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from hermes_celery.store.database import Database

#: A consumer without an answer for this time counts as gone: four unanswered questions.
FRESH_MS = 60_000
_SHOWN = 3


class ForeignQueue(msgspec.Struct, frozen=True, kw_only=True):
    """One queue with consumers that report nothing to us."""

    name: str
    #: The consumers' Celery node names.
    workers: list[str]
    #: When they last answered.
    seen_ms: int
    #: Whether a worker with our hooks consumed it too at that time.
    is_shared: bool = False
    #: Whether at least one of them is certainly without our hooks.
    is_sure: bool = True
    #: When they first left a question unanswered; 0 while they answer.
    gone_ms: int = 0

    def is_fresh(self, now_ms: int) -> bool:
        """Return whether the consumers answered within `FRESH_MS`."""
        return now_ms - self.seen_ms <= FRESH_MS

    def may_have_taken(self, since_ms: int) -> bool:
        """Return whether they may have taken a message that was pushed at `since_ms` or later."""
        return not self.gone_ms or self.gone_ms >= since_ms

    @property
    def who(self) -> str:
        """The names of some consumers, for use in a sentence."""
        rest = len(self.workers) - _SHOWN
        return ", ".join(self.workers[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")

    @property
    def why_sent(self) -> str:
        """The reason on a run that ends as `sent` when it is pushed to this queue."""
        return f"queue {self.name!r} is consumed by {self.who} without Cron(app): not followed"

    @property
    def why_taken(self) -> str:
        """The reason on a run that ends because its message has left this queue."""
        if self.gone_ms:
            return (
                f"taken from queue {self.name!r}, perhaps by {self.who} without Cron(app), which "
                "consumed it and has left since"
            )
        return f"taken from queue {self.name!r}, which {self.who} without Cron(app) consumes"


class ForeignQueues:
    """Reads and writes the foreign queues of one namespace's server."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._key = database.keys.foreign

    def read(self) -> dict[str, ForeignQueue]:
        """Return all stored queues by name, without unreadable ones. Raises StoreError."""
        found = {}
        for name, text in self._database.call("HGETALL", self._key).items():
            try:
                found[name] = msgspec.json.decode(text, type=ForeignQueue)
            except msgspec.MsgspecError:
                continue
        return found

    def why_sent(self, name: str, *, now_ms: int) -> str:
        """Return why a run ends when it is pushed to this queue; "" when its workers report."""
        one = self.read().get(name)
        is_only = one is not None and one.is_sure and not one.is_shared and one.is_fresh(now_ms)
        return one.why_sent if one is not None and is_only else ""

    def write(self, found: Mapping[str, ForeignQueue]) -> None:
        """Store these queues. Raises StoreError."""
        pairs = [part for name, one in found.items() for part in (name, msgspec.json.encode(one))]
        if pairs:
            self._database.call("HSET", self._key, *pairs)

    def forget(self, names: Collection[str]) -> None:
        """Delete these queues. Raises StoreError."""
        if names:
            self._database.call("HDEL", self._key, *names)
