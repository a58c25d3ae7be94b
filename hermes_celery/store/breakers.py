"""A circuit breaker for each delivery server, so that not every delivery waits for a dead one.

All workers share it. Keys hold a digest of the address, because an address may hold a token.
While a server does not answer, one attempt at a time is made; the waits between attempts grow to a
minute. If a breaker's record is unreadable or lost, every delivery is attempted again.
"""

from __future__ import annotations

import hashlib
import logging

from hermes_celery.errors import RecordBroken
from hermes_celery.events import event
from hermes_celery.store.database import Database

_log = logging.getLogger(__name__)
_FIRST_WAIT_MS, _LONGEST_WAIT_MS = 5_000, 60_000
_KEEP_SECONDS = 3600


class Breakers:
    """The circuit breakers of one namespace. `far_end` is the address of a delivery server."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def wait_ms(self, far_end: str, *, now_ms: int, attempt_ms: int) -> int:
        """Return how long to wait before using `far_end`, in ms; 0 grants one attempt now.

        `attempt_ms` is how long that attempt may take; until then others wait.
        """
        try:
            word, until_ms = self._database.run(
                "breaker_check",
                keys={"breaker": self._key(far_end)},
                args={
                    "now_ms": now_ms,
                    "until_ms": now_ms + attempt_ms,
                    "keep_seconds": _KEEP_SECONDS,
                },
            )
        except RecordBroken as error:
            self._ignore(error)
            return 0
        return max(int(until_ms) - now_ms, 0) if word == "wait" else 0

    def answered(self, far_end: str, *, now_ms: int) -> None:
        """Close the breaker: the server answered, even if with a refusal."""
        self._record(far_end, "1", now_ms)

    def timed_out(self, far_end: str, *, now_ms: int) -> None:
        """Open the breaker, or lengthen its wait: the attempt timed out without an answer."""
        self._record(far_end, "", now_ms)

    def _record(self, far_end: str, word: str, now_ms: int) -> None:
        try:
            self._database.run(
                "breaker_record",
                keys={"breaker": self._key(far_end)},
                args={
                    "has_answered": word,
                    "now_ms": now_ms,
                    "first_wait_ms": _FIRST_WAIT_MS,
                    "longest_wait_ms": _LONGEST_WAIT_MS,
                    "keep_seconds": _KEEP_SECONDS,
                },
            )
        except RecordBroken as error:
            self._ignore(error)

    def _key(self, far_end: str) -> str:
        return self._keys.breaker(hashlib.sha256(far_end.encode()).hexdigest()[:16])

    def _ignore(self, error: RecordBroken) -> None:
        event(_log, "breaker.broken", level=logging.WARNING, key=error.key, why=error.what)
        self._database.call("DEL", error.key)
