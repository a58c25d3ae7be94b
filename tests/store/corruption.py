"""Record calls of every script, and corrupt each key that they touch in turn.

`recorded_calls` uses a namespace once, and keeps calls of each script with the state of the server
before them. `spoilt` lists the ways to corrupt a key. `test_corruption` repeats a call on its state
with one corruption, and judges the answer and the writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import product
from typing import Any

import msgspec

from hermes_celery.core.dead_letters import PATIENCE, letter
from hermes_celery.core.incidents import Trouble, TroubleKind
from hermes_celery.core.job import Job, JobRequest
from hermes_celery.core.policy import CatchUp, OnLost, Overlap, Policy
from hermes_celery.core.run import DeliveryState, Outcome, RunState, Usage
from hermes_celery.core.targets import Target
from hermes_celery.scheduling.run_rescue import Rescuer
from hermes_celery.scheduling.tick import Ticker
from hermes_celery.store import (
    Actor,
    Breakers,
    Claim,
    Database,
    Deliveries,
    DeliveryPart,
    EarlyEnd,
    FollowUp,
    HandedOn,
    History,
    Incidents,
    Letters,
    Mover,
    PartContent,
    Retention,
    RunLimits,
    ToldIncident,
    lua,
)
from hermes_celery.store.database import ScriptCall
from hermes_celery.store.deliveries import SendClaim
from hermes_celery.store.keys import Keys
from tests.support import HandClock, Store

TOKEN = 1
#: Calls kept of each script; more would only repeat these.
_CALLS = 6
State = dict[str, bytes]


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a script, and the content of the server before it."""

    script: str
    keys: tuple[str, ...]
    args: tuple[str | int | bytes, ...]
    before: State


class RecordingDatabase(Database):
    """A database that keeps the script calls made through it."""

    calls: list[Call]
    _is_on = False

    def record(self) -> None:
        """Forget earlier calls and record the calls from now on."""
        self.calls, self._is_on = [], True

    def run_listed(
        self, script: str, *, keys: Sequence[str], args: Sequence[str | int | bytes]
    ) -> Any:
        self._note(script, keys, args)
        return super().run_listed(script, keys=keys, args=args)

    def begin(
        self, script: str, *, keys: Sequence[str], args: Sequence[str | int | bytes]
    ) -> Callable[[], Any]:
        self._note(script, keys, args)
        return super().begin(script, keys=keys, args=args)

    def run_many(self, script: str, calls: Sequence[ScriptCall]) -> list[Any]:
        for call in calls:
            self._note(script, call.keys, call.args)
        return super().run_many(script, calls)

    def _note(self, script: str, keys: Sequence[str], args: Sequence[str | int | bytes]) -> None:
        if self._is_on and sum(call.script == script for call in self.calls) < _CALLS:
            before = state_of(self)
            self.calls.append(
                Call(script=script, keys=tuple(keys), args=tuple(args), before=before)
            )


def state_of(database: Database) -> State:
    """Return every key of the namespace, queues included, with its DUMP."""
    keys = [
        str(key) for key in database.client.scan_iter(f"*{database.keys.namespace}*", count=1000)
    ]
    dumps = database.raw_many([("DUMP", key) for key in keys]) if keys else []
    return dict(zip(keys, dumps, strict=True))


def restore(database: Database, state: State) -> None:
    """Make the namespace hold exactly this state."""
    keys = list(database.client.scan_iter(f"*{database.keys.namespace}*", count=1000))
    commands: list[Sequence[str | int | bytes]] = [("DEL", key) for key in keys]
    commands += [("RESTORE", key, 0, dump) for key, dump in state.items()]
    database.call_many(commands)


def answer_of(database: Database, call: Call) -> Any:
    """Repeat a call and return its answer; raise redis.ResponseError if the script fails."""
    return database.client.eval(lua.source(call.script), len(call.keys), *call.keys, *call.args)


#: The command that writes a value of each type.
TYPES: dict[str, tuple[str, ...]] = {
    "string": ("SET", "x"),
    "hash": ("HSET", "f", "x"),
    "list": ("RPUSH", "x"),
    "set": ("SADD", "x"),
    "zset": ("ZADD", "1", "x"),
    "stream": ("XADD", "*", "f", "x"),
}
GARBAGE = ("", "abc", "-1", "1.5", "1e400", "nan", "9" * 40, "\x00\x01", "{not json", "é" * 50)


def wrong_types(kind: str) -> dict[str, tuple[str, ...]]:
    """Return the types that a key of type `kind` must not have."""
    return {name: command for name, command in TYPES.items() if name != kind}


def spoilt(database: Database, key: str) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Yield the ways to corrupt a key: a name, and the commands that do it."""
    kind = str(database.call("TYPE", key))
    yield "absent", [("DEL", key)]
    for name, (command, *values) in wrong_types(kind).items():
        yield name, [("DEL", key), (command, key, *values)]
    if kind == "hash":
        for field in sorted(database.call("HKEYS", key)):
            yield f"{field} gone", [("HDEL", key, field)]
    for name, write in garbage_in(database, key, kind):
        yield name, [write]


def garbage_in(database: Database, key: str, kind: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield meaningless values for a key of the right type."""
    if kind == "hash":
        for field, garbage in product(sorted(database.call("HKEYS", key)), GARBAGE):
            yield f"{field}={garbage[:12]!r}", ("HSET", key, field, garbage)
    elif kind == "zset":
        for score, member in product(("-inf", "inf", "0.5"), database.call("ZRANGE", key, 0, 1)):
            yield f"{member[:12]} at {score}", ("ZADD", key, score, member)
    elif kind in ("string", "list"):
        head = ("SET", key) if kind == "string" else ("LSET", key, "0")
        for garbage in GARBAGE:
            yield f"{garbage[:12]!r}", (*head, garbage)


def recorded_calls(database: RecordingDatabase, clock: HandClock) -> list[Call]:
    """Write, tick, run, lose, retry, hold, cancel, remove and delete jobs; return the calls."""
    database.call("SET", database.keys.term, TOKEN)
    store = Store(database, clock)
    database.record()
    _use_namespace(store)
    return database.calls


def _use_namespace(store: Store) -> None:
    cron, runs, clock = store.cron, store.runs, store.clock
    places = RunLimits(store.database)
    plain = cron.add(_request("plain"))
    waiting = cron.add(_request("waiting", policy=Policy(overlap=Overlap.QUEUE_ONE)))
    failing = cron.add(_request("failing", policy=Policy(retries=1, pause_after=1)))
    dying = cron.add(_request("dying", policy=Policy(on_lost=OnLost.RETRY)))
    grouped = cron.add(
        _request("grouped", group="g", group_limit=1, token_budget=10, cost_budget=1.0)
    )
    chain = cron.add(_request("chain", policy=Policy(catch_up=CatchUp.ALL, expires_seconds=9_000)))
    once = cron.add(JobRequest(schedule="in 30m", script="s.sh", no_agent=True, name="once"))
    _hand_on(store, plain)
    _hour(store)
    _hour(store)
    for job in (plain, waiting, failing, dying, grouped, chain, once):
        _work(store, places, job)
    _deliver(store)
    clock.advance(20)
    for _ in range(3):
        Rescuer(store.jobs, runs, store.messages).rescue(token=TOKEN, now_ms=clock.ms)
        clock.advance(61)
    cron.run(plain.id, key="k")
    cron.backfill(waiting.id, start=_past(store, 5), end=_past(store, 1))
    for run in cron.latest_runs(limit=50):
        if run.state is RunState.QUEUED:
            cron.cancel(run.id)
    unreadable = json.dumps({"id": cron.run(waiting.id)}).encode()
    for _ in range(PATIENCE):
        dead = letter(unreadable, queue="q", why="junk", worker="w", at_ms=clock.ms)
        Letters(store.database).bury(dead)
    cron.edit(plain.id, {"name": "renamed", "schedule": "every 2h"})
    cron.pause(plain.id)
    cron.resume(plain.id)
    cron.pause_all(note="a moment")
    cron.resume_all()
    store.database.call("HSET", store.database.keys.job(dying.id), "spec", "{not json")
    _hour(store)
    cron.remove(once.id)
    store.due.defer([chain.id], until_ms=clock.ms + 1, token=TOKEN, now_ms=clock.ms)
    _forget(store)
    _move(store)


def _hand_on(store: Store, job: Job) -> None:
    """Hand a run on twice, so that every number is on record, and let it come again."""
    run_id = store.cron.run(job.id)
    asks = partial(store.runs.claim, run_id, now_ms=store.clock.ms, worker="w", message=run_id)
    for hop in (0, 1):
        claim = asks(token=f"hop {hop}", hop=hop)
        assert isinstance(claim, Claim)
        now_ms = store.clock.ms
        queue, actor = store.messages.queue(job.spec), Actor(now_ms=now_ms, token=TOKEN)
        handed_on = HandedOn(message=run_id, hop=hop + 1, queue=queue, retry_at_ms=now_ms)
        store.runs.put_back(claim, ready_at_ms=now_ms, handed_on=handed_on)
        (one,) = store.runs.undelivered_since(now_ms, limit=1)
        assert store.runs.is_on_queue(one, queue=queue, actor=actor)
    end = EarlyEnd(state=RunState.LOST, error="x", attempt=1, hop=2)
    store.runs.end_waiting(run_id, end, now_ms=now_ms)


def _move(store: Store) -> None:
    """Move waiting jobs and a paused one to another namespace."""
    database = store.database
    there = Database(database.client, keys=Keys(namespace=f"{database.keys.namespace}-z"))
    store.cron.pause(store.jobs.find("grouped").id)
    for name in ("grouped", "failing", "chain"):
        Mover(database, there).move(store.jobs.find(name), now_ms=store.clock.ms)


def _deliver(store: Store) -> None:
    """Deliver a run's output to two targets, retry one, and report an incident of it."""
    deliveries, incidents = Deliveries(store.database), Incidents(store.database)
    run = next(run for run in store.cron.latest_runs() if run.delivery is DeliveryState.PENDING)
    queue, now_ms = store.database.keys.delivery_queue, store.clock.ms
    parts = [
        DeliveryPart(what=PartContent.OUTPUT, target=Target(name=name)) for name in ("ops", "dev")
    ]
    deliveries.push(
        run.id, seen_ms=_deadline(deliveries, run.id), now_ms=now_ms, token=TOKEN, queue=queue,
        message=b"m",
    )  # fmt: skip
    deliveries.begin(run.id, token="p", now_ms=now_ms, until_ms=now_ms + 1000)
    one, other = (
        incidents.report(
            Trouble(kind=TroubleKind.FAILURE, subject=subject, text="t", job_id=run.job_id,
                    job_name=run.job_name, run_id=run.id),
            now_ms=now_ms,
        ).id
        for subject in ("one", "other")
    )  # fmt: skip
    deliveries.plan(
        run.id, parts, now_ms=now_ms, text="t", warning="w", told=ToldIncident(id=one, count=1),
    )  # fmt: skip
    breakers = Breakers(store.database)
    breakers.wait_ms("there", now_ms=now_ms, attempt_ms=1000)
    breakers.timed_out("there", now_ms=now_ms)
    breakers.wait_ms("there", now_ms=now_ms + 9_000, attempt_ms=1000)
    breakers.timed_out("there", now_ms=now_ms)
    breakers.answered("there", now_ms=now_ms)
    for number, state in (
        (0, DeliveryState.PENDING),
        (1, DeliveryState.DELIVERED),
        (0, DeliveryState.FAILED),
    ):
        claim = deliveries.claim(
            run.id, number, token=f"{state}", now_ms=now_ms, until_ms=now_ms + 1000
        )
        assert isinstance(claim, SendClaim)
        error = "" if state is DeliveryState.DELIVERED else "502"
        deliveries.done(claim, state, now_ms=now_ms, error=error)
    deliveries.again(run.id, mode="failed", now_ms=now_ms, queue=queue, message=b"m")
    deliveries.notice(
        "notice", "t", deliver="ops", job_id=run.job_id,
        told=ToldIncident(id=other, count=1), now_ms=now_ms,
    )  # fmt: skip
    incidents.ack(one, now_ms=now_ms)
    incidents.close(
        incidents.of_job(run.job_id), job_id=run.job_id, now_ms=now_ms, worked_ms=now_ms,
        delivery_id=run.id, recovery="works again",
    )  # fmt: skip


def _deadline(deliveries: Deliveries, run_id: str) -> int:
    return dict(deliveries.due(10**15, limit=1000))[run_id]


def _request(name: str, **fields: Any) -> JobRequest:
    return JobRequest(schedule="every 1h", script="s.sh", no_agent=True, name=name, **fields)


def _past(store: Store, hours: int) -> datetime:
    return store.cron.now - timedelta(hours=hours)


def _hour(store: Store) -> None:
    store.clock.advance(3600)
    Ticker(store.due, store.messages).tick(token=TOKEN, now_ms=store.clock.ms)


def _work(store: Store, places: RunLimits, job: Job) -> None:
    """Let a worker take the queued runs of a job and end each in the job's own way."""
    ids = [run.id for run in store.cron.latest_runs(job.id) if run.state is RunState.QUEUED]
    for run_id in ids:
        claim = store.runs.claim(run_id, token=f"t-{run_id}", now_ms=store.clock.ms, worker="w")
        if isinstance(claim, str):
            continue
        places.enter(claim, now_ms=store.clock.ms)
        store.runs.heartbeat({run_id: claim.token}, now_ms=store.clock.ms)
        if job.name in ("dying", "chain"):
            continue
        places.spend(claim, Usage(tokens=20, cost_usd=0.5), now_ms=store.clock.ms)
        _end(store, claim, job)


def _end(store: Store, claim: Claim, job: Job) -> None:
    failed = job.name == "failing"
    outcome = Outcome(
        state=RunState.FAILED if failed else RunState.SUCCEEDED,
        output=b"out",
        error="boom" if failed else None,
    )
    store.runs.finish(
        claim,
        outcome,
        now_ms=store.clock.ms,
        retry_at_ms=store.clock.ms + 10 if failed and claim.attempt == 1 else None,
        follow_up=FollowUp(
            delivery=DeliveryState.PENDING,
            queue=store.database.keys.delivery_queue,
            message=b"m",
            is_needed=True,
        ),
    )


def _forget(store: Store) -> None:
    history = History(store.database, retention=Retention(runs_per_job=1, run_days=1))
    store.clock.advance(2 * 86_400)
    history.trim(store.clock.ms)
    history.trim(store.clock.ms)
