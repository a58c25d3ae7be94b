"""Queues that workers without our hooks consume, as a leader saw it last.

Written by the thread of a leader that asks (`foreign_workers`); read by whoever dispatches by hand,
and by `doctor` and `status`. All times are the server's, Unix milliseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from hermes_celery.store.database import Database

#: A consumer that has not answered for so long is not there any more: four questions.
FRESH_MS = 60_000
_SHOWN = 3


class ForeignQueue(msgspec.Struct, frozen=True, kw_only=True):
    """One queue with consumers that do not report."""

    name: str
    #: Their Celery node names.
    workers: list[str]
    #: When they answered last.
    seen_ms: int
    #: Whether a worker that reports consumed it too at that time.
    is_shared: bool = False
    #: Whether one of them is no worker of ours for certain.
    is_sure: bool = True
    #: When they were asked first and did not answer any more; 0 while they answer.
    gone_ms: int = 0

    def is_fresh(self, now_ms: int) -> bool:
        """Whether they answered a moment ago."""
        return now_ms - self.seen_ms <= FRESH_MS

    def may_have_taken(self, since_ms: int) -> bool:
        """Whether they may have taken a message that was pushed at some instant or after it."""
        return not self.gone_ms or self.gone_ms >= since_ms

    @property
    def who(self) -> str:
        """Some of them, for a sentence."""
        rest = len(self.workers) - _SHOWN
        return ", ".join(self.workers[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")

    @property
    def why_sent(self) -> str:
        """Why a run is over when it is pushed to this queue."""
        return f"queue {self.name!r} is consumed by {self.who} without Cron(app): not followed"

    @property
    def why_taken(self) -> str:
        """Why a run is over whose message has left this queue."""
        if self.gone_ms:
            return (
                f"taken from queue {self.name!r}, perhaps by {self.who} without Cron(app), which "
                "consumed it and has left since"
            )
        return f"taken from queue {self.name!r}, which {self.who} without Cron(app) consumes"


class ForeignQueues:
    """The queues of one namespace's server that have such consumers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._key = database.keys.foreign

    def read(self) -> dict[str, ForeignQueue]:
        """All that are remembered, by name; one that cannot be read is left out.

        Raises StoreError.
        """
        found = {}
        for name, text in self._database.call("HGETALL", self._key).items():
            try:
                found[name] = msgspec.json.decode(text, type=ForeignQueue)
            except msgspec.MsgspecError:
                continue
        return found

    def why_sent(self, name: str, *, now_ms: int) -> str:
        """Why a run that is pushed to a queue now is over; "" where its workers report."""
        one = self.read().get(name)
        is_only = one is not None and one.is_sure and not one.is_shared and one.is_fresh(now_ms)
        return one.why_sent if one is not None and is_only else ""

    def write(self, found: Mapping[str, ForeignQueue]) -> None:
        """Remember queues. Raises StoreError."""
        pairs = [part for name, one in found.items() for part in (name, msgspec.json.encode(one))]
        if pairs:
            self._database.call("HSET", self._key, *pairs)

    def forget(self, names: Collection[str]) -> None:
        """Remember queues no longer. Raises StoreError."""
        if names:
            self._database.call("HDEL", self._key, *names)
