"""The package with a planted bug, to test the tests: the proof has to turn red on each.

A plant changes the text of a script, or splits one step into two, in this process only. The text
that it replaces must exist: a plant that no longer fits fails with a message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from hermes_celery.store import Advance, Advanced, Database, DueIndex, StepAnswer, connect, lua
from hermes_celery.store.database import broken, is_broken, wrapped
from hermes_celery.store.keys import Keys
from tests.support import replaced


class KnownBug(StrEnum):
    """The planted bug."""

    NONE = ""
    #: Move the schedule first, then record and publish, as celery beat and RedBeat do.
    SCHEDULE_FIRST = "schedule first"
    #: Record and move the schedule in one step; publish the message in a second one.
    PUBLISH_OUTSIDE = "publish outside"
    #: A run whose message is built after its admission is not noted as waiting.
    LATE_UNNOTED = "late unnoted"
    #: A worker runs every message without a claim.
    NO_CLAIM = "no claim"
    #: Scripts accept any fencing token.
    NO_FENCE = "no fence"
    #: A worker that comes back may finish a run that was given up.
    NO_CLAIM_TOKEN = "no claim token"
    #: The end of a run pushes the message of its delivery, and keeps no note of it.
    DELIVERY_UNNOTED = "delivery unnoted"
    #: A group takes any number of runs.
    NO_PLACES = "no places"
    #: A job that has spent its budget is not paused.
    NO_PAUSE = "no pause"


#: For each plant: the script, the text to replace, the new text.
_CHANGES: dict[KnownBug, tuple[tuple[str, str, str], ...]] = {
    KnownBug.PUBLISH_OUTSIDE: (
        ("advance", "  call('LPUSH', KEYS[7 + queue], unpack(messages))\n", ""),
    ),
    KnownBug.LATE_UNNOTED: (
        (
            "advance",
            "queued[#queued + 1] = choices.late or ARGV[3]",
            "queued[#queued + 1] = choices.late and ARGV[2] + 86400000 or ARGV[3]",
        ),
    ),
    KnownBug.NO_CLAIM: (("claim", "if run[1] ~= 'queued' and not again then", "if false then"),),
    KnownBug.NO_FENCE: tuple(
        (script, "if not broken and token ~= ARGV[1] then", "if false then")
        for script in ("advance", "fault", "redeliver", "lose")
    ),
    KnownBug.NO_CLAIM_TOKEN: (
        (
            "finish",
            "if not broken and (run[1] ~= 'running' or run[2] ~= ARGV[1]) then",
            "if run[1] == 'succeeded' then",
        ),
    ),
    KnownBug.DELIVERY_UNNOTED: (
        ("finish", "  redis.call('ZADD', KEYS[12], ARGV[12], ARGV[3])\n", ""),
    ),
    KnownBug.NO_PLACES: (("enter_group", ">= tonumber(ARGV[5])", "< 0"),),
    KnownBug.NO_PAUSE: (("spend", "if not why or job[1] ~= 'scheduled' then", "if true then"),),
}


class PlantedDatabase(Database):
    """A database that runs changed scripts."""

    def __init__(self, client: Any, *, keys: Keys, plant: KnownBug) -> None:
        super().__init__(client, keys=keys)
        self._changed = {
            script: self.client.register_script(_replaced(lua.source(script), old, new))
            for script, old, new in _CHANGES.get(plant, ())
        }

    def run_listed(
        self, script: str, *, keys: Sequence[str], args: Sequence[str | int | bytes]
    ) -> Any:
        """Run a script as the package does, with the changed text if there is one."""
        changed = self._changed.get(script)
        if changed is None:
            return super().run_listed(script, keys=keys, args=args)
        with wrapped():
            answer = changed(keys=keys, args=args)
        if is_broken(answer):
            raise broken(answer)
        return answer

    def begin(
        self, script: str, *, keys: Sequence[str], args: Sequence[str | int | bytes]
    ) -> Callable[[], Any]:
        """Begin a script as the package does; a changed text is run at once."""
        if script not in self._changed:
            return super().begin(script, keys=keys, args=args)
        answer = self.run_listed(script, keys=keys, args=args)
        return lambda: answer


def _replaced(text: str, old: str, new: str) -> str:
    assert old in text, f"the plant no longer fits: {old!r} is not in the script"
    return text.replace(old, new)


class TwoSteps(DueIndex):
    """A due index that writes a batch in two steps where the package needs one."""

    def __init__(
        self, database: Database, *, shard: int = 0, redeliver_after_ms: int, plant: KnownBug
    ) -> None:
        super().__init__(database, shard=shard, redeliver_after_ms=redeliver_after_ms)
        self._plant = plant

    def begin_advance(
        self, batch: Sequence[Advance], *, token: int, now_ms: int
    ) -> Callable[[], list[Advanced]]:
        """Do the plant's extra step before or after the real one."""
        if self._plant is KnownBug.SCHEDULE_FIRST:
            steps = Counter(advance.due.spec.id for advance in batch)
            batch = [self._moved(a) if steps[a.due.spec.id] == 1 else a for a in batch]
        written = super().begin_advance(batch, token=token, now_ms=now_ms)

        def answers() -> list[Advanced]:
            words = written()
            if self._plant is KnownBug.PUBLISH_OUTSIDE:
                for advance, answer in zip(batch, words, strict=True):
                    if answer is StepAnswer.OK:
                        self._database.call("LPUSH", advance.queue, advance.message)
            return words

        return answers

    def _moved(self, advance: Advance) -> Advance:
        """Move the schedule on, and return an advance that expects it there."""
        step, job_id = advance.step, advance.due.spec.id
        if step.next_run_ms is None:
            return advance
        keys = self._keys
        self._database.call("HSET", keys.job(job_id), "next_ms", step.next_run_ms)
        self._database.call("ZADD", self._key, step.next_run_ms, job_id)
        moved: Advance = replaced(advance, step=replaced(step, seen_ms=step.next_run_ms))
        return moved


def open_planted(url: str, keys: Keys, plant: KnownBug) -> Database:
    """Open the store with the bug."""
    return PlantedDatabase(connect(url), keys=keys, plant=plant)
