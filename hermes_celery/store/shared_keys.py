"""Check and repair the keys that all jobs share, and the types of all keys.

A key of the wrong type is moved to quarantine, where a person can inspect it; its proper content
can be derived from the records (`Records.everything`). The same step stores a new mark
(`Keys.refill`). The mark makes the leader read all records, whoever moved the key and even if that
process dies. Values are checked where a wrong one would stop everything: the term, the number of
shards, a lease without an expiry, the pause switch.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from hermes_celery.core.reconciling import (
    Disagreement,
    DisagreementKind,
    KeyRole,
    MendVerb,
    MendWrite,
    fact_text,
    op,
    whole,
)
from hermes_celery.core.server_address import BrokerNames
from hermes_celery.errors import StoreError
from hermes_celery.store.database import Database, refuse_fenced
from hermes_celery.store.fencing import Actor
from hermes_celery.store.keys import Keys
from hermes_celery.store.repairs import CheckMode, SeenRecord, fact_of, mend_call, text_of

#: The longest lease. A lease without an expiry gets this one; a living owner renews it.
_LEASE_MS = 1_000
_MANY = 200
#: Type by the first word of the name, for keys that exist once for each job, run, and so on.
TYPES = {
    "job": "hash",
    "run": "hash",
    "active": "hash",
    "held": "list",
    "output": "string",
    "stderr": "string",
    "managed": "set",
    "declares": "string",
    "group": "zset",
    "delivery": "hash",
    "incident": "hash",
    "troubles": "set",
    "breaker": "hash",
    "trigger": "string",
}
#: Type by name, for keys that exist once for each shard.
_SHARDED = {"lease": "string", "term": "string", "due": "zset", "leader": "hash"}
_NUMBERS = ("paused_ms", "resumed_ms")


class KeyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The type and content of one key."""

    key: str
    digest: str
    kind: str
    #: The beginning of a string value.
    value: str = ""
    is_forever: bool = False
    fields: Mapping[str, str | None] = {}


def shared_types(keys: Keys, *, shards: int) -> dict[str, str]:
    """Return the keys that all jobs share, each with the type that it must have."""
    found = {
        keys.shards: "string",
        keys.beats: "zset",
        keys.jobs: "zset",
        keys.names: "zset",
        keys.runs: "zset",
        keys.job_runs: "zset",
        keys.queued: "zset",
        keys.heartbeats: "zset",
        keys.completed: "zset",
        keys.grown: "set",
        keys.mark: "string",
        keys.switch: "hash",
        keys.deliveries: "zset",
        keys.incidents: "zset",
        keys.workers: "zset",
        keys.consumers: "hash",
        keys.taken: "zset",
        keys.queues: "set",
        keys.foreign: "hash",
        keys.sweep: "hash",
        keys.refill: "string",
        keys.letters: "list",
        keys.letters_total: "string",
        keys.format: "string",
        keys.programs: "zset",
        keys.projects: "hash",
        keys.refused: "hash",
        keys.default_queue: "list",
        keys.delivery_queue: "list",
    }
    for shard in range(shards):
        found |= {
            keys.lease_of(shard): "string",
            keys.term_of(shard): "string",
            keys.due_of(shard): "zset",
            keys.leader_of(shard): "hash",
        }
    return found


def own_broker_names(keys: Keys) -> BrokerNames:
    """Return kombu's names for our own app, for use without the app itself."""
    broadcast = ("celery.pidbox", "reply.celery.pidbox", "celeryev")
    return BrokerNames(exchanges=frozenset((keys.default_queue, keys.delivery_queue, *broadcast)))


class SharedKeys:
    """Checks the types of keys, and moves keys of the wrong type to quarantine."""

    def __init__(self, database: Database, names: BrokerNames) -> None:
        """`names` are kombu's names for the app; without them no key of kombu is checked."""
        self._database = database
        self._keys = database.keys
        self._brokers = names.types()

    def check(self, mode: CheckMode, *, shards: int) -> list[Disagreement]:
        """Check and repair the keys that all jobs share.

        Raises LeaseLost when a younger leader's token is known.
        """
        types = shared_types(self._keys, shards=shards) | self._brokers
        facts = self._read_facts(list(types))
        found = []
        for one in facts:
            if one.kind not in ("none", types[one.key]):
                found.append(self._repaired(one, self._wrong_type(one, types[one.key]), mode))
            else:
                found += [
                    self._repaired(one, wrong, mode) for wrong in self._values(one, mode, shards)
                ]
        terms = [self._keys.term_of(shard) for shard in range(shards)]
        for shard, term in enumerate(self._read_facts(terms)):
            was_moved = any(f and f.subject == term.key and is_moved(f) for f in found)
            wrong_terms = self._term(term, shard, mode, was_moved=was_moved)
            found += [self._repaired(term, wrong, mode) for wrong in wrong_terms]
        return [finding for finding in found if finding is not None]

    def check_types(self, types: Mapping[str, str], mode: CheckMode) -> list[Disagreement]:
        """Check and repair some keys, each with the type that it must have."""
        found = []
        names = list(types)
        for start in range(0, len(names), _MANY):
            for one in self._read_facts(names[start : start + _MANY]):
                if one.kind not in ("none", types[one.key]):
                    found.append(self._repaired(one, self._wrong_type(one, types[one.key]), mode))
        return [finding for finding in found if finding is not None]

    def type_of(self, key: str) -> str:
        """Return the type that a key must have; "" if that is unknown."""
        if key in self._brokers:
            return self._brokers[key]
        if not key.startswith(self._keys.prefix):
            return "list"  # a Celery queue: all our other keys have the prefix
        name = key.removeprefix(self._keys.prefix)
        shared = shared_types(self._keys, shards=1)
        first, _, rest = name.partition(":")
        if key in shared:
            return shared[key]
        return _SHARDED.get(first, "") if rest.isdecimal() else TYPES.get(first, "")

    def _read_facts(self, names: Sequence[str]) -> list[KeyFacts]:
        args: list[str | int] = []
        for name in names:
            fields = self._fields(name)
            args += (len(fields), *fields)
        keys = [name.encode("utf-8", "surrogateescape") for name in names]
        answers = self._database.run_raw("read_key_facts", keys=keys, args=args)
        return [
            _key_facts(name, self._fields(name), answer)
            for name, answer in zip(names, answers, strict=True)
        ]

    def _fields(self, name: str) -> tuple[str, ...]:
        if name == self._keys.switch:
            return _NUMBERS
        return ("term",) if name.startswith(self._keys.leader) else ()

    def _wrong_type(self, one: KeyFacts, wanted: str) -> Disagreement:
        return Disagreement(
            trouble=DisagreementKind.BROKEN,
            subject=one.key,
            text=f"key {fact_text(one.key)} is a {one.kind}, not a {wanted}; moved to quarantine",
            # The order matters: the mark itself may be the key that is moved.
            ops=(
                op(MendVerb.QUARANTINE, KeyRole.KEY),
                op(MendVerb.REPLACE, KeyRole.REFILL, secrets.token_hex(8)),
            ),
        )

    def _values(self, one: KeyFacts, mode: CheckMode, shards: int) -> Iterator[Disagreement]:
        if one.key == self._keys.shards and one.kind == "string" and one.value != str(shards):
            yield _about(one, f"is {fact_text(one.value)}, not a number of shards; set to {shards}",
                         op(MendVerb.REPLACE, KeyRole.KEY, shards))  # fmt: skip
        is_lease = one.key == self._keys.lease or one.key.startswith(self._keys.lease + ":")
        if is_lease and one.kind == "string" and one.is_forever:
            yield _about(one, "has no expiry, so no other beat could lead; expiry set",
                         op(MendVerb.EXPIRE, KeyRole.KEY, _LEASE_MS))  # fmt: skip
        if one.key == self._keys.switch:
            yield from _switch(one)

    def _term(
        self, one: KeyFacts, shard: int, mode: CheckMode, *, was_moved: bool
    ) -> Iterator[Disagreement]:
        """Yield findings about a term, which must never decrease: it is the fencing token."""
        (leader,) = self._read_facts([self._keys.leader_of(shard)])
        known = whole(leader.fields.get("term")) or 0
        term = whole(one.value)
        is_fine = term is not None and str(term) == one.value and term >= max(known, 0)
        if (one.kind == "none" and not known and not was_moved) or (
            one.kind == "string" and is_fine
        ):
            return
        if one.kind not in ("none", "string"):
            return  # moved to quarantine first; without --repair that is reported already
        new = max(known, term or 0) + 1 if known or term else mode.now_ms // 1000
        what = "is missing" if one.kind == "none" else f"is {fact_text(one.value)}"
        yield _about(one, f"{what}, and a term must never decrease; set to {new}",
                     op(MendVerb.REPLACE, KeyRole.KEY, new))  # fmt: skip

    def _repaired(
        self, one: KeyFacts, finding: Disagreement, mode: CheckMode
    ) -> Disagreement | None:
        """Repair a finding; return None if the key has changed meanwhile."""
        if not mode.mends or not finding.ops:
            return finding
        seen = SeenRecord(
            kind="key",
            keys={KeyRole.KEY: one.key, KeyRole.REFILL: self._keys.refill},
            args=self._fields(one.key),
            digest=one.digest,
        )
        actor = Actor(now_ms=mode.now_ms, token=mode.token)
        call = mend_call(seen, finding.ops, keys=self._keys, actor=actor)
        (answer,) = self._database.run_many("mend", [call])
        if isinstance(answer, StoreError):
            return finding
        refuse_fenced(answer)
        return msgspec.structs.replace(finding, is_mended=True) if answer == "ok" else None


def is_moved(finding: Disagreement) -> bool:
    """Return whether a repair moved a key to quarantine."""
    return finding.is_mended and any(one.verb is MendVerb.QUARANTINE for one in finding.ops)


def _switch(one: KeyFacts) -> Iterator[Disagreement]:
    paused, resumed = (one.fields.get(name) for name in _NUMBERS)
    if paused and whole(paused) is None:
        # Beats read it the same way: an invalid instant pauses no job.
        yield _about(one, f"has the invalid pause time {fact_text(paused)}; removed",
                     op(MendVerb.CLEAR, KeyRole.KEY, "paused_ms"))  # fmt: skip
    if resumed is not None and whole(resumed) is None:
        yield _about(one, f"has the invalid resume time {fact_text(resumed)}; removed",
                     op(MendVerb.CLEAR, KeyRole.KEY, "resumed_ms"))  # fmt: skip


def _about(one: KeyFacts, text: str, write: MendWrite) -> Disagreement:
    return Disagreement(
        trouble=DisagreementKind.BROKEN,
        subject=one.key,
        text=f"key {fact_text(one.key)} {text}",
        ops=(write,),
    )


def _key_facts(key: str, fields: Sequence[str], answer: Sequence[bytes]) -> KeyFacts:
    digest, kind, value, forever, *values = answer
    text = fact_of(value)
    facts = [fact_of(one) for one in values] or [None] * len(fields)
    return KeyFacts(
        key=key,
        digest=text_of(digest),
        kind=text_of(kind),
        value=text if isinstance(text, str) else "",
        is_forever=bool(forever),
        fields={
            name: fact if isinstance(fact, str) else None
            for name, fact in zip(fields, facts, strict=True)
        },
    )
