"""Bad values in Redis, and a function that plants each.

Such values are left by an edit by hand, a bug, a restored copy or a newer version.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import msgspec

from hermes_celery.core.job import Job
from hermes_celery.core.run import run_id_of
from hermes_celery.store import Database, Jobs
from tests.support import a_job, replaced

_LONG_AGO_MS = 1_000_000


class Plant:
    """One planted bad value with a job and a run of its own, beside the healthy job."""

    def __init__(self, database: Database, number: int, now_ms: int) -> None:
        self.database = database
        self.keys = database.keys
        self.call = database.call
        self.job_id = f"{0xBAD0000 + number:012x}"
        self.run_id = run_id_of(self.job_id, now_ms - now_ms % 1000 - 60_000)
        self.now_ms = now_ms

    def job(self, *, is_due: bool = True) -> Job:
        """Store a job; it is due unless `is_due` is false."""
        job = a_job(id=self.job_id, name=f"bad {self.job_id}")
        job = replaced(job, next_run_at=job.next_run_at and job.next_run_at + timedelta(days=900))
        stored = Jobs(self.database).add(job)
        if is_due:
            self.call("HSET", self.keys.job(self.job_id), "next_ms", self.now_ms - 1000)
            self.call("ZADD", self.keys.due, self.now_ms - 1000, self.job_id)
        return stored

    def spec(self, **changes: object) -> None:
        """Store a due job and change its stored definition by hand."""
        job = self.job()
        spec = {**msgspec.to_builtins(job.spec), **changes}
        self.field("spec", msgspec.json.encode(spec))

    def field(self, name: str, value: str | bytes) -> None:
        self.call("HSET", self.keys.job(self.job_id), name, value)

    def run(self, **fields: str | int) -> None:
        """Store a run's record; `fields` add to the default fields or replace them."""
        record = {"job_name": "bad", "queued_ms": self.now_ms, "state": "queued", **fields}
        for name, value in record.items():
            self.call("HSET", self.keys.run(self.run_id), name, value)
        self.call("ZADD", self.keys.runs, self.now_ms, self.run_id)

    def wait(self, score: int | str = _LONG_AGO_MS, *, run_id: str | bytes = "") -> None:
        """Let a run wait for a worker for longer than it should."""
        self.call("ZADD", self.keys.queued, score, run_id or self.run_id)

    def silence(self, *, run_id: str | bytes = "") -> None:
        """Let a run's last heartbeat be long ago."""
        self.call("ZADD", self.keys.heartbeats, _LONG_AGO_MS, run_id or self.run_id)

    def set(self, key: str, kind: str) -> None:
        """Replace a key by one of another type."""
        self.call("DEL", key)
        self.call(*{"string": ("SET", key, "x"), "list": ("RPUSH", key, "x")}[kind])

    def incident(self, **fields: str) -> None:
        """Store an open incident with only these fields."""
        incident = f"bad-{self.job_id}"
        for name, value in fields.items():
            self.call("HSET", self.keys.incident(incident), name, value)
        self.call("ZADD", self.keys.incidents, _LONG_AGO_MS, incident)
        self.call("SADD", self.keys.troubles(""), incident)


def _job_is(kind: str) -> Callable[[Plant], None]:
    def plant(p: Plant) -> None:
        p.job()
        p.set(p.keys.job(p.job_id), kind)

    return plant


def _job_with(name: str, value: str | bytes) -> Callable[[Plant], None]:
    def plant(p: Plant) -> None:
        p.job()
        p.field(name, value)

    return plant


def _without(name: str) -> Callable[[Plant], None]:
    def plant(p: Plant) -> None:
        p.job()
        p.call("HDEL", p.keys.job(p.job_id), name)

    return plant


def _due_at(score: str, *, is_due: bool = True) -> Callable[[Plant], None]:
    def plant(p: Plant) -> None:
        p.job(is_due=is_due)
        p.call("ZADD", p.keys.due, score, p.job_id)

    return plant


def _waiting(**fields: str) -> Callable[[Plant], None]:
    def plant(p: Plant) -> None:
        p.job(is_due=False)
        p.run(**fields)
        p.wait()

    return plant


def _handed_on_to_no_queue(p: Plant) -> None:
    p.job(is_due=False)
    p.run(handed_on="x", handed_queue=p.keys.run(p.run_id))
    p.wait()


def _nameless(p: Plant) -> None:
    p.run()
    p.call("HDEL", p.keys.run(p.run_id), "job_name")
    p.wait()


def _waiting_since_minus_inf(p: Plant) -> None:
    p.job(is_due=False)
    p.run()
    p.wait("-inf")


def _run_is_a_list(p: Plant) -> None:
    p.run()
    p.set(p.keys.run(p.run_id), "list")
    p.wait()
    p.silence()


def _output_is_a_list(p: Plant) -> None:
    p.run(state="succeeded", finished_ms=p.now_ms)
    p.set(p.keys.output(p.run_id), "list")


def _garbage_ids(index: str, score: int | str = _LONG_AGO_MS) -> Callable[[Plant], None]:
    def plant(p: Plant) -> None:
        key = getattr(p.keys, index)
        if p.call("TYPE", key) != "zset":
            p.call("DEL", key)
        for bad in ("rubbish", "", b"\xff\xfe-x", '"\\udcff', "x" * 300):
            p.call("ZADD", key, score, bad)

    return plant


def _garbled_run_with_a_record(p: Plant) -> None:
    for name, value in (("job_name", "bad"), ("queued_ms", "1"), ("state", "queued")):
        p.call("HSET", p.keys.run("rubbish-with-a-record"), name, value)
    p.call("ZADD", p.keys.runs, p.now_ms, "rubbish-with-a-record")
    p.wait(run_id="rubbish-with-a-record")


def _key_is(name: str, kind: str) -> Callable[[Plant], None]:
    return lambda p: p.set(getattr(p.keys, name), kind)


def _text(name: str, value: str) -> Callable[[Plant], None]:
    def plant(p: Plant) -> None:
        p.call("DEL", getattr(p.keys, name))
        p.call("SET", getattr(p.keys, name), value)

    return plant


def _fields(name: str, *pairs: str) -> Callable[[Plant], None]:
    def plant(p: Plant) -> None:
        p.call("DEL", getattr(p.keys, name))
        p.call("HSET", getattr(p.keys, name), *pairs)

    return plant


def _grown(p: Plant) -> None:
    p.call("SADD", p.keys.grown, "rubbish", b"\xff", "")


def _delivery(**fields: str) -> Callable[[Plant], None]:
    def plant(p: Plant) -> None:
        p.run(state="succeeded", delivery="pending", finished_ms=p.now_ms)
        for name, value in fields.items():
            p.call("HSET", p.keys.delivery(p.run_id), name, value)
        p.call("ZADD", p.keys.deliveries, _LONG_AGO_MS, p.run_id)

    return plant


def _delivery_is_a_list(p: Plant) -> None:
    p.set(p.keys.delivery(p.run_id), "list")
    p.call("ZADD", p.keys.deliveries, "-inf", p.run_id)


def _completed_and_unreadable(p: Plant) -> None:
    p.job(is_due=False)
    p.field("spec", "{")
    p.call("ZADD", p.keys.completed, _LONG_AGO_MS, p.job_id)


def _old_run_is_a_list(p: Plant) -> None:
    p.set(p.keys.run(p.run_id), "list")
    p.call("ZADD", p.keys.runs, _LONG_AGO_MS, p.run_id)


def _lease(p: Plant) -> None:
    p.call("DEL", p.keys.lease)
    p.call("SET", p.keys.lease, "by hand")


def _incident_is_a_list(p: Plant) -> None:
    p.incident(kind="late")
    p.set(p.keys.incident(f"bad-{p.job_id}"), "list")


#: Planting functions by the name of the bad value. Values of the same key follow one another: when
#: all are planted, the last of them stays.
BAD_VALUES: dict[str, Callable[[Plant], None]] = {
    "job is a string": _job_is("string"),
    "job is a list": _job_is("list"),
    "spec is not JSON": _job_with("spec", "{"),
    "spec is a list": _job_with("spec", "[]"),
    "spec is not UTF-8": _job_with("spec", b'{"id": "\xff\xfe"}'),
    "spec is nested deeply": _job_with("spec", "[" * 5000),
    "spec has another shape": _job_with("spec", '{"id": 5}'),
    "spec is missing": _without("spec"),
    "spec is another job's": lambda p: p.spec(id="c" * 12),
    "spec has an unknown policy": lambda p: p.spec(policy={"overlap": "negotiate"}),
    "spec has unknown work": lambda p: p.spec(prompt="", grpc={"call": "x"}),
    "spec's instants are out of range": lambda p: p.spec(created_ms=10**30, start_ms=-(10**17)),
    "spec's schedule is invalid": lambda p: p.spec(schedule="whenever", timezone="Mars/Olympus"),
    "revision is a word": _job_with("revision", "many"),
    "revision is missing": _without("revision"),
    "next_ms is a word": _job_with("next_ms", "soon"),
    "next_ms is out of range": _job_with("next_ms", "9" * 18),
    "completed is a word": _job_with("completed", "often"),
    "job's state is unknown": _job_with("state", "archived"),
    "job's numbers are words": _job_with("last_run_ms", "yesterday"),
    "due score is -inf": _due_at("-inf"),
    "due score is -inf and the job is not due": _due_at("-inf", is_due=False),
    "due score is inf": _due_at("inf"),
    "due score is absurd": _due_at("1e300"),
    "due ids are garbage": _garbage_ids("due"),
    "due ids are garbage with score -inf": _garbage_ids("due", "-inf"),
    "job ids are garbage": _garbage_ids("jobs"),
    "names are garbage": _garbage_ids("names", 0),
    "queued run has no name": _nameless,
    "queued ids are garbage": _garbage_ids("queued"),
    "queued id is garbage and has a record": _garbled_run_with_a_record,
    "queued score is -inf": _waiting_since_minus_inf,
    "queued run's numbers are words": _waiting(queued_ms="then", attempt="first", expires_ms="?"),
    "queued run's instants are out of range": _waiting(queued_ms="9" * 18, expires_ms="9" * 18),
    "queued run's hop is junk": _waiting(hop="junk"),
    "queued run's hop is too large": _waiting(hop="9" * 19),
    "queued run's handed-on hop is junk": _waiting(handed_on="x", handed_hop="junk"),
    "queued run's handed-on hop is too large": _waiting(handed_on="x", handed_hop="9" * 19),
    "queued run's retry time is a word": _waiting(
        handed_on="x", handed_hop="1", retry_ms="soon", patience_ms="long", on_queue_ms="then"
    ),
    "queued run was handed on to a key that is no queue": _handed_on_to_no_queue,
    "queued run's pushes are junk": _waiting(pushes="junk"),
    "run's words are unknown": _waiting(state="dreaming", trigger="moon", delivery="pigeon"),
    "run is a list": _run_is_a_list,
    "run's output is a list": _output_is_a_list,
    "heartbeat ids are garbage": _garbage_ids("heartbeats"),
    "run ids are garbage": _garbage_ids("runs"),
    "run ids are garbage with score inf": _garbage_ids("runs", "inf"),
    "runs by job are garbage": _garbage_ids("job_runs", 0),
    "old run is a list": _old_run_is_a_list,
    "completed ids are garbage": _garbage_ids("completed"),
    "completed job is unreadable": _completed_and_unreadable,
    "grown ids are garbage": _grown,
    "delivery ids are garbage": _garbage_ids("deliveries"),
    "delivery's parts are not JSON": _delivery(parts="["),
    "delivery's parts are unknown": _delivery(parts='[{"what":"song","target":{}}]', size="1"),
    "delivery's numbers are words": _delivery(parts="[]", size="1", pushes="x"),
    "delivery is a list": _delivery_is_a_list,
    "incident of an unknown kind": lambda p: p.incident(kind="eclipse", text="dark", count="1"),
    "incident without fields": lambda p: p.incident(kind="late"),
    "incident's numbers are words": lambda p: p.incident(
        kind="late", count="x", told="y", first_ms="z", last_ms="9" * 18, acked_ms="?"
    ),
    "incident is a list": _incident_is_a_list,
    "workers are garbage": _garbage_ids("workers", "inf"),
    "workers are a string": _key_is("workers", "string"),
    "mark is a list": _key_is("mark", "list"),
    "switch's times are words": _fields("switch", "paused_ms", "abc", "resumed_ms", "xyz"),
    "switch is a string": _key_is("switch", "string"),
    "beats are a string": _key_is("beats", "string"),
    "leader is a string": _key_is("leader", "string"),
    "leader's time is a word": _fields("leader", "seen_ms", "abc"),
    "lease is a list": _key_is("lease", "list"),
    "lease has no expiry": _lease,
    "term is a word": _text("term", "abc"),
    "term is a list": _key_is("term", "list"),
    "shards are a word": _text("shards", "abc"),
    "shards are a list": _key_is("shards", "list"),
    "shards are a billion": _text("shards", "1000000000"),
}


def due_at_once(database: Database, job: Job, now_ms: int) -> None:
    """Let a job have been due for a second."""
    database.call("HSET", database.keys.job(job.id), "next_ms", now_ms - 1000)
    database.call("ZADD", database.keys.due_of(0), now_ms - 1000, job.id)


def plant(database: Database, name: str, *, now_ms: int, wave: int = 0) -> Plant:
    """Plant one bad value; each `wave` uses a job and a run of its own."""
    place = Plant(database, list(BAD_VALUES).index(name) + wave * 0x1000, now_ms)
    BAD_VALUES[name](place)
    return place
