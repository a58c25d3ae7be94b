"""Dead letters: undecodable messages, kept and counted, and how they end their runs."""

from __future__ import annotations

import msgspec

from hermes_celery.core.counted import counted
from hermes_celery.core.dead_letters import KEPT, NOT_REGISTERED, PATIENCE, DeadLetter, advice_on
from hermes_celery.core.run import RunState
from hermes_celery.store.database import Database
from hermes_celery.store.end_run import EarlyEnd
from hermes_celery.store.runs import Runs

_decode = msgspec.json.Decoder(DeadLetter).decode
_encode = msgspec.json.Encoder().encode


class Letters:
    """Reads and writes the dead letters of one namespace.

    All times are the server's, Unix milliseconds.
    """

    def __init__(self, database: Database, *, redeliver_after_ms: int = 60_000) -> None:
        self._database = database
        self._keys = database.keys
        self._runs = Runs(database, redeliver_after_ms=redeliver_after_ms)

    def bury(self, letter: DeadLetter, *, is_final: bool = False) -> str | None:
        """Keep a dead letter; return the id of the run that ended because of it, or None.

        The first letters of a waiting run change nothing: rescue pushes its message again. The
        third ends the run as failed. With `is_final` the first one does, because no worker could
        decode another message. A run that does not wait is never changed.
        """
        keys = self._keys
        number = int(
            self._database.run(
                "bury_letter",
                keys={
                    "letters": keys.letters,
                    "total": keys.letters_total,
                    "run": keys.run(letter.run_id),
                },
                args={"letter": _encode(letter), "kept": KEPT, "run_id": letter.run_id},
            )
        )
        if number < (1 if is_final else PATIENCE):
            return None
        times = counted(number, "time")
        times = "" if is_final else f"workers could not read its message {times}: "
        return letter.run_id if self._refuse(letter, times + letter.why) == "cancelled" else None

    def _refuse(self, letter: DeadLetter, why: str) -> str:
        return self._runs.end_waiting(
            letter.run_id,
            EarlyEnd(
                state=RunState.FAILED,
                error=f"{why}{_advice(why)}; see `hermes-celery letters`",
            ),
            now_ms=letter.at_ms,
        )

    def latest(self, *, limit: int = KEPT) -> list[DeadLetter]:
        """Return the kept letters, the newest first, without unreadable entries."""
        found: list[DeadLetter] = []
        for entry in self._database.call("LRANGE", self._keys.letters, 0, limit - 1):
            try:
                found.append(_decode(entry))
            except msgspec.MsgspecError:
                continue
        return found

    def total(self) -> int:
        """Return how many letters there ever were; 0 when the counter is not a number."""
        text = str(self._database.call("GET", self._keys.letters_total) or "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 16 else 0

    def clear(self) -> int:
        """Delete the kept letters and return their number. The counter of all letters stays."""
        kept = int(self._database.call("LLEN", self._keys.letters))
        self._database.call("DEL", self._keys.letters)
        return kept


def _advice(why: str) -> str:
    """Return advice to append, when the task is not registered; else "".

    Only one run shows it, so the advice must be complete there.
    """
    return f"; {advice_on(why)}" if NOT_REGISTERED in why else ""
