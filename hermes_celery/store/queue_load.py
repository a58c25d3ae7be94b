"""What workers say of themselves, which queues there are, and how much waits on them.

Every read is bounded, and a record that cannot be read is left out: this tells of troubles and must
not become one. All times are the server's, Unix milliseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

import msgspec

from hermes_celery.core.run import RunState, job_id_of
from hermes_celery.errors import RecordBroken, StoreError, StoreUnavailable
from hermes_celery.store.database import Database, scored, whole

#: So many queues are looked at; who has more sees a random part of them at a time.
_QUEUES = 500
#: kombu keeps messages of lower priority in `<queue><this><priority>`.
_PRIORITY = "\x06\x16"
#: In the order in which kombu takes them.
_STEPS = ("", *(f"{_PRIORITY}{step}" for step in (3, 6, 9)))


class WorkerSign(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker says of itself every few seconds."""

    seen_ms: int
    #: By queue that it consumes: when its main loop last asked for messages and was answered;
    #: before the first answer, when it started.
    queues: dict[str, int]
    #: All its slots are taken, so that it asks for nothing.
    is_full: bool = False
    host: str = ""
    #: Of the disk that its Hermes home is on; 0 where that is not known.
    disk_free: int = 0
    disk_total: int = 0


class RecordedOccurrence(msgspec.Struct, frozen=True, kw_only=True):
    """One occurrence that came to be, or was skipped."""

    job_id: str
    job_name: str
    at_ms: int
    is_overlap: bool


class WaitingMessages(msgspec.Struct, frozen=True, kw_only=True):
    """What waits on one Celery queue."""

    length: int
    #: A digest of the message that will be taken next; "" when there is none. While it stays the
    #: same, nobody takes anything.
    next_up: str


class HeldBy(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job's earlier runs are not over; nothing of it: one of them runs, or there is none."""

    #: The queue on which all of them wait.
    queue: str = ""
    #: A run whose task handed it on, and the message that ends it has not come.
    handed_on: str = ""


class Load:
    """How one namespace is loaded, and who works for it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def say(self, worker: str, sign: WorkerSign, *, taken: Mapping[str, int], now_ms: int) -> None:
        """Write a worker's sign, and when it took what."""
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
        """Take a worker's signs away."""
        keys = self._keys
        self._database.call_many([("ZREM", keys.workers, worker), ("HDEL", keys.consumers, worker)])

    def signs(self) -> dict[str, WorkerSign]:
        """The workers' signs, of dead ones too; one that cannot be read is left out."""
        found = {}
        for worker, text in self._database.call("HGETALL", self._keys.consumers).items():
            try:
                found[worker] = msgspec.json.decode(text, type=WorkerSign)
            except msgspec.MsgspecError:
                continue
        return found

    def forget_workers(self, workers: Collection[str]) -> None:
        """Take dead workers' signs away."""
        if workers:
            self._database.call("HDEL", self._keys.consumers, *workers)

    def taken(self) -> dict[str, int]:
        """When a worker last took a message, by queue."""
        rows = self._database.call("ZREVRANGE", self._keys.taken, 0, _QUEUES - 1, "WITHSCORES")
        return {queue: whole(score) for queue, score in scored(rows)}

    def queues(self) -> set[str]:
        """The queues that runs were pushed to, and our own two."""
        known = self._database.call("SRANDMEMBER", self._keys.queues, _QUEUES)
        return {base_of(key) for key in known} | {
            self._keys.default_queue,
            self._keys.delivery_queue,
        }

    def waiting(self, queues: Collection[str]) -> dict[str, WaitingMessages]:
        """What waits on each queue. What is no list counts as empty."""
        usual = {f"{name}{step}" for name in queues for step in _STEPS}
        # A project may have other steps of priority.
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
        """What keeps a job's next occurrence from running."""
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
        """How many runs wait for a worker."""
        return int(self._database.call("ZCARD", self._keys.queued))

    def running(self) -> int:
        """How many runs a worker performs."""
        return int(self._database.call("ZCARD", self._keys.heartbeats))

    def keeps_a_log(self) -> bool:
        """Whether the server writes every change to its disk (the append-only file is on)."""
        return str(self._database.call("INFO", "persistence").get("aof_enabled")) == "1"

    def cannot_save(self) -> bool:
        """Whether the server refuses writes, because it cannot save them to its disk."""
        found = self._database.call("INFO", "persistence")
        is_on = str(found.get("aof_enabled")) == "1"
        return is_on and str(found.get("aof_last_write_status", "ok")) != "ok"

    def oldest(self, *, limit: int) -> dict[str, int]:
        """By queue: since when its longest waiting run waits, of `limit` that wait longest.

        Those whose message is pushed again last wait longest, since that pause doubles.
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
        """Up to `limit` occurrences recorded after `since_ms`, the latest first."""
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
                is_overlap=state == RunState.SKIPPED and str(reason).startswith("overlap"),
            )
            for (run_id, score), (state, reason, name) in zip(pairs, found, strict=True)
        ]

    def memory(self) -> tuple[int, int]:
        """How many bytes the server uses, and how many it may (0: as many as there are)."""
        info = self._database.call("INFO", "memory")
        return int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))

    def eviction(self) -> str:
        """By which policy the server throws keys away when it is full; "" where it never does."""
        info = self._database.call("INFO", "memory")
        policy = str(info.get("maxmemory_policy", "noeviction"))
        has_limit = str(info.get("maxmemory", "0")) != "0"
        return policy if has_limit and policy != "noeviction" else ""

    def _rows(self, ids: Sequence[str], *fields: str) -> list[list[str | None]]:
        """Those fields of some runs; a run that is no hash has none of them."""
        answers = self._database.call_each(
            [("HMGET", self._keys.run(run_id), *fields) for run_id in ids]
        )
        return [answer or [None] * len(fields) for answer in answers]


def note_queues(database: Database, queues: Collection[str]) -> None:
    """Note queues that runs are pushed to: once per process, so that it costs a tick nothing.

    Only who looks for troubles needs them, so that a refusal is none.
    """
    new = [queue for queue in queues if queue not in database.noted_queues]
    if not new:
        return
    try:
        database.call("SADD", database.keys.queues, *new)
    except StoreUnavailable:
        return
    except StoreError:
        pass  # the key is of the wrong type, or the server is full: others tell of that
    database.noted_queues.update(new)


def base_of(key: str) -> str:
    """The queue that a list belongs to, whatever the priority of what is on it."""
    return key.split(_PRIORITY, 1)[0]


def _digest(message: bytes | None) -> str:
    if message is None:
        return ""
    return hashlib.sha1(message, usedforsecurity=False).hexdigest()
