"""Far ends that did not answer lately, so that not every delivery waits for each of them.

What is kept is shared by all workers, by a digest: the address of a far end may hold a token. While
it does not answer, one attempt at a time is made, after waits that grow to a minute. It is a memory
only: one that cannot be read, or is lost, lets everybody try.
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
    """The far ends of one namespace."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def wait_ms(self, far_end: str, *, now_ms: int, attempt_ms: int) -> int:
        """How long to let a far end alone; 0: try it now, which may take `attempt_ms`."""
        try:
            word, until_ms = self._database.run(
                "breaker_ask",
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
        """It has answered, be it with a refusal."""
        self._tell(far_end, "1", now_ms)

    def timed_out(self, far_end: str, *, now_ms: int) -> None:
        """It took its whole time and has not answered."""
        self._tell(far_end, "", now_ms)

    def _tell(self, far_end: str, word: str, now_ms: int) -> None:
        try:
            self._database.run(
                "breaker_tell",
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
