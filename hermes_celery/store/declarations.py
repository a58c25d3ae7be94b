"""The jobs that living beats declare, and the declared jobs that were refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from hermes_celery.core.declared import Declaration, RefusedJob
from hermes_celery.core.readable import readable
from hermes_celery.errors import RecordBroken
from hermes_celery.store.database import Database
from hermes_celery.store.format import Formats

#: A declaration expires after this time unless its beat renews it; the same as a beat's sign.
_ALIVE_MS = 10_000
_BEAT = "beat "
_encode = msgspec.json.Encoder().encode


class Declarations:
    """Reads and writes the declarations of one namespace."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def say(self, owner: str, declaration: Declaration) -> None:
        """Store a beat's declaration for ten seconds; call again before it expires."""
        key = self._keys.declares(owner)
        self._database.call("SET", key, _encode(declaration), "PX", _ALIVE_MS)

    def say_gone(self, owner: str) -> None:
        """Delete a beat's declaration, because the beat stops."""
        self._database.call("DEL", self._keys.declares(owner))

    def living(self, *, now_ms: int) -> dict[str, Declaration]:
        """Return the declarations of the living beats, by beat name, without unreadable ones."""
        signs = Formats(self._database).living(now_ms=now_ms)
        owners = [sign.removeprefix(_BEAT) for sign in signs if sign.startswith(_BEAT)]
        if not owners:
            return {}
        texts = self._database.call_many([("GET", self._keys.declares(owner)) for owner in owners])
        found = {}
        for owner, text in zip(owners, texts, strict=True):
            try:
                if isinstance(text, str):
                    found[owner] = msgspec.json.decode(text, type=Declaration)
            except msgspec.DecodeError:
                continue
        return found

    def name_of(self, job_id: str, now_ms: int) -> str:
        """Return the name under which a living beat declares this job; "" when none does."""
        living = self.living(now_ms=now_ms).values()
        return next((one.jobs[job_id] for one in living if job_id in one.jobs), "")

    def note_refusals(self, refusals: Sequence[RefusedJob]) -> list[RefusedJob]:
        """Replace the stored refusals; return those that no longer hold."""
        was = {one.name: one for one in self.refusals()}
        now = {one.name: _encode(one) for one in refusals}
        key = self._keys.refused
        if now:
            pairs = [part for pair in now.items() for part in pair]
            self._database.call("HSET", key, *pairs)
        over = [one for name, one in was.items() if name not in now]
        if over:
            self._database.call("HDEL", key, *(one.name for one in over))
        return over

    def refusals(self) -> list[RefusedJob]:
        """Return the refused declared jobs, sorted by name.

        An unreadable entry becomes a stand-in that says so. When the whole record is unreadable,
        returns [].
        """
        try:
            rows: Mapping[str, str] = self._database.hash(self._keys.refused)
        except RecordBroken:
            return []
        found = []
        for name in sorted(rows):
            try:
                found.append(msgspec.json.decode(rows[name], type=RefusedJob))
            except msgspec.DecodeError:
                found.append(RefusedJob(name=readable(name), job_id="", where="?",
                                     why="the stored refusal is unreadable"))  # fmt: skip
        return found
