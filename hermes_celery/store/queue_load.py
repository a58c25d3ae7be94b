"""Signs of workers, known queues, and how many messages and runs wait on them.

Every read is bounded, and an unreadable record is left out: this code reports troubles and must not
cause any. All times are the server's, Unix milliseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

import msgspec

from hermes_celery.core.run import EndReason, RunState, job_id_of
from hermes_celery.errors import RecordBroken, StoreError, StoreUnavailable
from hermes_celery.store.database import Database, scored, whole

#: How many queues are read; with more queues, each read takes a random part of them.
_QUEUES = 500
#: kombu keeps messages of lower priority in `<queue><this><priority>`.
_PRIORITY = "\x06\x16"
#: Suffixes of a queue's lists, in the order in which kombu reads them.
_STEPS = ("", *(f"{_PRIORITY}{step}" for step in (3, 6, 9)))


class WorkerSign(msgspec.Struct, frozen=True, kw_only=True):
    """The report that a worker writes about itself every few seconds."""

    seen_ms: int
    #: Each consumed queue, with the time of the last answered question of the main loop for
    #: messages; before the first answer, the time of the worker's start.
    queues: dict[str, int]
    #: Whether all its slots are taken, so that it does not ask for messages.
    is_full: bool = False
    host: str = ""
    #: Bytes of the disk with its Hermes home; 0 if unknown.
    disk_free: int = 0
    disk_total: int = 0


class RecordedOccurrence(msgspec.Struct, frozen=True, kw_only=True):
    """One occurrence that has a run record, skipped ones included."""

    job_id: str
    job_name: str
    at_ms: int
    is_overlap: bool


class WaitingMessages(msgspec.Struct, frozen=True, kw_only=True):
    """The messages that wait on one Celery queue."""

    length: int
    #: A digest of the next message; "" for an empty queue. While it stays the same, no message is
    #: taken.
    next_up: str


class HeldBy(msgspec.Struct, frozen=True, kw_only=True):
    """The reason why a job's earlier runs have not ended.

    Empty when one of them runs, or when there is none.
    """

    #: The queue on which all of them wait.
    queue: str = ""
    #: The id of a run that its task handed on, and whose last message has not come yet.
    handed_on: str = ""


class QueueLoad:
    """Reads and writes the load of one namespace and the signs of its workers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def say(self, worker: str, sign: WorkerSign, *, taken: Mapping[str, int], now_ms: int) -> None:
        """Write a worker's sign, and when it last took a message from each queue."""
        keys = self._keys
        commands: list[Sequence[str | int | bytes]] = [
            ("ZADD", keys.workers, now_ms, worker),
            ("HSET", keys.consumers, worker, msgspec.json.encode(sign)),
        ]
        if taken:
            pairs = [part for queue, at_ms in taken.items() for part in (at_ms, queue)]
            commands.append(("ZADD", keys.taken, "GT", *pairs))
        self._database.call_many(commands)

    def say_goodbye(self, worker: str) -> None:
        """Remove a worker's signs."""
        keys = self._keys
        self._database.call_many([("ZREM", keys.workers, worker), ("HDEL", keys.consumers, worker)])

    def signs(self) -> dict[str, WorkerSign]:
        """Return the signs of workers, dead ones included, without unreadable signs."""
        found = {}
        for worker, text in self._database.call("HGETALL", self._keys.consumers).items():
            try:
                found[worker] = msgspec.json.decode(text, type=WorkerSign)
            except msgspec.MsgspecError:
                continue
        return found

    def forget_workers(self, workers: Collection[str]) -> None:
        """Remove the signs of dead workers."""
        if workers:
            self._database.call("HDEL", self._keys.consumers, *workers)

    def taken(self) -> dict[str, int]:
        """Return when a worker last took a message, by queue."""
        rows = self._database.call("ZREVRANGE", self._keys.taken, 0, _QUEUES - 1, "WITHSCORES")
        return {queue: whole(score) for queue, score in scored(rows)}

    def queues(self) -> set[str]:
        """Return the queues that runs were pushed to, and our own two."""
        known = self._database.call("SRANDMEMBER", self._keys.queues, _QUEUES)
        return {base_of(key) for key in known} | {
            self._keys.default_queue,
            self._keys.delivery_queue,
        }

    def waiting(self, queues: Collection[str]) -> dict[str, WaitingMessages]:
        """Return the waiting messages of each queue; a key of another type counts as empty."""
        usual = {f"{name}{step}" for name in queues for step in _STEPS}
        # A project may use other priority steps.
        known = self._database.call("SRANDMEMBER", self._keys.queues, _QUEUES)
        others = [key for key in known if key not in usual and base_of(key) in queues]
        lists = [(name, f"{name}{step}") for name in sorted(queues) for step in _STEPS]
        lists += [(base_of(key), key) for key in sorted(others)]
        lengths = self._database.call_each([("LLEN", key) for _, key in lists])
        full = [
            (name, key, length)
            for (name, key), length in zip(lists, lengths, strict=True)
            if length
        ]
        messages = self._database.call_each(
            [("LINDEX", key, -1) for _, key, _ in full], decoded=False
        )
        found = {name: WaitingMessages(length=0, next_up="") for name in queues}
        for (name, _, length), message in zip(full, messages, strict=True):
            before = found[name]
            found[name] = WaitingMessages(
                length=before.length + int(length), next_up=before.next_up or _digest(message)
            )
        return found

    def held_by(self, job_id: str) -> HeldBy:
        """Return what blocks a job's next occurrence."""
        try:
            active = list(self._database.hash(self._keys.active(job_id)))
        except RecordBroken:
            return HeldBy()
        queues: set[str] = set()
        rows = self._rows(active, "state", "queue", "handed_on")
        for run_id, (state, queue, handed_on) in zip(active, rows, strict=True):
            if state != RunState.QUEUED:
                return HeldBy()
            if handed_on:
                return HeldBy(handed_on=run_id)
            queues.add(queue or "")
        return HeldBy(queue=max(queues, default=""))

    def queued(self) -> int:
        """Return the number of runs that wait for a worker."""
        return int(self._database.call("ZCARD", self._keys.queued))

    def running(self) -> int:
        """Return the number of runs that workers execute."""
        return int(self._database.call("ZCARD", self._keys.heartbeats))

    def keeps_a_log(self) -> bool:
        """Return whether the server writes every change to its disk (append-only file on)."""
        return str(self._database.call("INFO", "persistence").get("aof_enabled")) == "1"

    def cannot_save(self) -> bool:
        """Return whether the server refuses writes because it cannot save them to its disk."""
        found = self._database.call("INFO", "persistence")
        is_on = str(found.get("aof_enabled")) == "1"
        return is_on and str(found.get("aof_last_write_status", "ok")) != "ok"

    def oldest(self, *, limit: int) -> dict[str, int]:
        """Return for each queue when its longest waiting run was queued, among `limit` runs.

        The runs with the latest next push are read: their waits double, so they have waited
        longest.
        """
        ids = self._database.call("ZREVRANGE", self._keys.queued, 0, limit - 1)
        rows = self._rows(ids, "state", "queue", "queued_ms", "handed_on")
        oldest: dict[str, int] = {}
        for state, queue, text, handed_on in rows:
            is_in_line = state == RunState.QUEUED and not handed_on
            if is_in_line and text is not None and text.isdecimal():
                name, queued_ms = base_of(queue or self._keys.default_queue), int(text)
                oldest[name] = min(queued_ms, oldest.get(name, queued_ms))
        return oldest

    def recorded_since(self, since_ms: int, *, limit: int) -> list[RecordedOccurrence]:
        """Return at most `limit` occurrences recorded after `since_ms`, the latest first."""
        rows = self._database.call(
            "ZREVRANGEBYSCORE", self._keys.runs, "+inf", f"({since_ms}", "WITHSCORES",
            "LIMIT", 0, limit,
        )  # fmt: skip
        pairs = scored(rows)
        found = self._rows([run_id for run_id, _ in pairs], "state", "reason", "job_name")
        return [
            RecordedOccurrence(
                job_id=job_id_of(run_id),
                job_name=str(name or ""),
                at_ms=whole(score),
                is_overlap=state == RunState.SKIPPED and str(reason).startswith(EndReason.OVERLAP),
            )
            for (run_id, score), (state, reason, name) in zip(pairs, found, strict=True)
        ]

    def memory(self) -> tuple[int, int]:
        """Return the bytes that the server uses, and its limit (0 for none)."""
        info = self._database.call("INFO", "memory")
        return int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))

    def eviction(self) -> str:
        """Return the policy by which a full server evicts keys; "" if it never does."""
        info = self._database.call("INFO", "memory")
        policy = str(info.get("maxmemory_policy", "noeviction"))
        has_limit = str(info.get("maxmemory", "0")) != "0"
        return policy if has_limit and policy != "noeviction" else ""

    def _rows(self, ids: Sequence[str], *fields: str) -> list[list[str | None]]:
        """Return these fields of some runs; all None for a key that is not a hash."""
        answers = self._database.call_each(
            [("HMGET", self._keys.run(run_id), *fields) for run_id in ids]
        )
        return [answer or [None] * len(fields) for answer in answers]


def note_queues(database: Database, queues: Collection[str]) -> None:
    """Record queues that runs are pushed to, once per process, so that later ticks pay nothing.

    Only checks for troubles use this record, so a failure to write it is ignored.
    """
    new = [queue for queue in queues if queue not in database.noted_queues]
    if not new:
        return
    try:
        database.call("SADD", database.keys.queues, *new)
    except StoreUnavailable:
        return
    except StoreError:
        pass  # the key has the wrong type, or the server is full: other checks report that
    database.noted_queues.update(new)


def base_of(key: str) -> str:
    """Return the queue that a Redis list belongs to, without its priority suffix."""
    return key.split(_PRIORITY, 1)[0]


def _digest(message: bytes | None) -> str:
    if message is None:
        return ""
    return hashlib.sha1(message, usedforsecurity=False).hexdigest()
