"""Tests of repairs on a real Valkey: disagreements are repaired, consistent records not touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hermes_celery.core.reconciling import DisagreementKind
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.errors import LeaseLost, StoreError
from hermes_celery.store import Database, RecordsToCheck, Repairs, connect
from tests.store.disorder import TOKEN, World
from tests.support import HandClock

Plant = Callable[[World], None]


@pytest.fixture
def world(valkey: Database, clock: HandClock) -> World:
    """Return a namespace with jobs in every state, all consistent."""
    return World(valkey, clock)


def _ghosts(key: str) -> Plant:
    def plant(world: World) -> None:
        for number in range(60):
            world.call("ZADD", key_of(world, key), number, f"{number:012x}-20260622T120000Z")

    return plant


def key_of(world: World, name: str) -> str:
    """Return a shared key by its attribute, or the key of a job or run, as in `active:once`."""
    family, _, who = name.partition(":")
    if not who:
        return str(getattr(world.keys, family))
    subject = world.run_of[who] if family in ("run", "delivery") else getattr(world, who).id
    return str(getattr(world.keys, family)(subject))


def does(*command: Any) -> Plant:
    """Return a plant that runs a command.

    `{...}` in it is a key (see `key_of`), `<...>` a job's id, `<run ...>` a run id.
    """

    def plant(world: World) -> None:
        def filled(part: Any) -> Any:
            if isinstance(part, str) and part.startswith("{"):
                return key_of(world, part[1:-1])
            if isinstance(part, str) and part.startswith("<run "):
                return world.run_of[part[5:-1]]
            if isinstance(part, str) and part.startswith("<"):
                return getattr(world, part[1:-1]).id
            return part

        world.call(*map(filled, command))

    return plant


#: Disagreements to plant; their repair restores everything exactly.
RESTORED: dict[str, Plant] = {
    "job without a due entry": does("ZREM", "{due}", "<idle>"),
    "due entry at another instant": does("ZADD", "{due}", 99, "<idle>"),
    "due entry with score -inf": does("ZADD", "{due}", "-inf", "<idle>"),
    "a paused job in the due index": does("ZADD", "{due}", 5, "<paused>"),
    "a completed job in the due index": does("ZADD", "{due}", 5, "<over>"),
    "due entry of an unknown job": does("ZADD", "{due}", 5, "f" * 12),
    "due entry with an invalid id": does("ZADD", "{due}", 5, "no id"),
    "due entry that is not UTF-8": does("ZADD", "{due}", 5, b"\xff\xfe"),
    "job missing in the index of jobs": does("ZREM", "{jobs}", "<idle>"),
    "unknown job in the index of jobs": does("ZADD", "{jobs}", 5, "f" * 12),
    "unknown job among completed ones": does("ZADD", "{completed}", 5, "f" * 12),
    "name of an unknown job": does("ZADD", "{names}", 0, "idle\0" + "f" * 12),
    "active runs: unknown run": does(
        "HSET", "{active:idle}", "a" * 12 + "-20260622T120000Z", "queued"
    ),
    "active runs: ended run": does("HSET", "{active:over}", "<run over>", "running"),
    "active runs: garbage": does("HSET", "{active:idle}", b"\xff", b"\xfe"),
    "active runs: run of another job": does("HSET", "{active:idle}", "<run waiting>", "queued"),
    "active runs: missing run": does("HDEL", "{active:waiting}", "<run waiting>"),
    "active runs: missing key": does("DEL", "{active:running}"),
    "active runs: wrong state": does("HSET", "{active:running}", "<run running>", "queued"),
    "queued: running run": does("ZADD", "{queued}", 5, "<run running>"),
    "queued: ended run": does("ZADD", "{queued}", 5, "<run over>"),
    "queued: sixty unknown runs": _ghosts("queued"),
    "heartbeats: ended run": does("ZADD", "{heartbeats}", 5, "<run over>"),
    "heartbeats: waiting run": does("ZADD", "{heartbeats}", 5, "<run waiting>"),
    "heartbeats: sixty unknown runs": _ghosts("heartbeats"),
    "deliveries: unknown delivery": does("ZADD", "{deliveries}", 5, "notice-broken-1"),
    "runs: unknown run": does("ZADD", "{runs}", 5, "a" * 12 + "-20260622T120000Z"),
    "runs: missing run": does("ZREM", "{runs}", "<run over>"),
    "runs by job: unknown run": does("ZADD", "{job_runs}", 0, "a" * 12 + "-20260622T120000Z"),
    "runs by job: missing run": does("ZREM", "{job_runs}", "<run over>"),
    "held: unknown run": does("RPUSH", "{held:holding}", "a" * 12 + "-20260622T120000Z\0m"),
    "held: garbage": does("RPUSH", "{held:holding}", b"\xff no run"),
    "job with an invalid number": does("HSET", "{job:idle}", "failures", "many"),
    "job with an invalid instant": does("HSET", "{job:idle}", "last_run_ms", "then"),
    "run with an invalid instant": does("HSET", "{run:waiting}", "expires_ms", "then"),
    "run with an invalid attempt": does("HSET", "{run:waiting}", "attempt", "x"),
    **{
        f"run with {name}={value!r}": does("HSET", "{run:waiting}", name, value)
        for name in ("hop", "handed_hop", "retry_ms", "patience_ms", "pushes", "on_queue_ms")
        for value in ("junk", "9" * 19, "-" + "9" * 16, " 1", "")
    },
    **{
        f"run with {name}={value!r}": does("HSET", "{run:waiting}", name, value)
        for name in ("hop", "handed_hop")
        for value in ("-1", "1000001", "9" * 16)
    },
    "delivery of a wrong type": does("SET", "{delivery:waiting}", "x"),
    "switch with an invalid instant": does("HSET", "{switch}", "resumed_ms", "then"),
}  # fmt: skip


@pytest.mark.parametrize("name", RESTORED)
def test_a_disagreement_is_repaired_and_all_else_stays(world: World, name: str) -> None:
    before = world.dump()
    RESTORED[name](world)
    planted = world.dump()
    assert planted != before
    found = world.look(mends=False)
    assert found
    assert not any(finding.is_mended for finding in found)
    assert world.dump() == planted
    assert all(finding.is_mended for finding in world.look())
    after = world.dump()
    for key, member in (("queued", "waiting"), ("heartbeats", "running"), ("runs", "over")):
        assert world.call("ZSCORE", key_of(world, key), world.run_of[member]) is not None
    assert _without_scores(after, world) == _without_scores(before, world)
    assert world.look() == []


def _without_scores(dump: dict[str, Any], world: World) -> dict[str, Any]:
    """Remove the scores of indexes whose instants a repair sets again, and the repairs' notes."""
    free = {world.keys.queued, world.keys.heartbeats, world.keys.runs, world.keys.jobs}
    return {
        key: sorted(str(row[0]) for row in value) if key in free else value
        for key, value in world.without_notes(dump).items()
    }


def test_all_disagreements_at_once_are_repaired(world: World) -> None:
    before = world.dump()
    for plant in RESTORED.values():
        plant(world)
    for _ in range(3):
        world.look()
    assert world.look() == []
    assert _without_scores(world.dump(), world) == _without_scores(before, world)


#: Values of a wrong type to plant, and the family of the key.
CHANGED: dict[str, tuple[Plant, str]] = {
    "a job of a wrong type": (does("SET", "{job:idle}", "x"), "job"),
    "a run of a wrong type": (does("SET", "{run:waiting}", "x"), "run"),
    "active runs of a wrong type": (does("SET", "{active:idle}", "x"), "active"),
    "held runs of a wrong type": (does("SET", "{held:idle}", "x"), "held"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_key_of_a_wrong_type_is_quarantined(world: World, name: str) -> None:
    plant, family = CHANGED[name]
    others = world.dump()
    world.call("DEL", key_of(world, f"{family}:{'waiting' if family == 'run' else 'idle'}"))
    plant(world)
    assert all(finding.is_mended for finding in world.look())
    assert [one.split(":")[0] for one in world.quarantined()] == [family]
    assert world.look() == []
    mine = (world.idle.id, world.waiting.id)
    shared = {world.keys.due, world.keys.jobs, world.keys.names, world.keys.queued,
              world.keys.runs, world.keys.job_runs}  # fmt: skip
    after = world.without_notes(world.dump())
    assert {k: v for k, v in after.items() if k not in shared and not _is_of(k, mine)} == {
        k: v for k, v in others.items() if k not in shared and not _is_of(k, mine)
    }


def _is_of(key: str, ids: tuple[str, ...]) -> bool:
    return any(one in key for one in ids)


def test_a_job_without_a_next_instant_is_planned_again_and_reported(world: World) -> None:
    for plant in ({"DEL"}, {"garbage"}):
        if plant == {"DEL"}:
            world.call("HDEL", world.keys.job(world.idle.id), "next_ms")
        else:
            world.call("HSET", world.keys.job(world.idle.id), "next_ms", "soon")
        world.call("ZREM", world.keys.due, world.idle.id)
        found = world.look()
        assert [(one.trouble, one.job_id) for one in found] == [
            (DisagreementKind.STOPPED, world.idle.id)
        ]
        job = world.store.jobs.get(world.idle.id)
        assert job.next_run_at == world.idle.spec.compiled().next_after(world.store.cron.now)
        assert int(world.call("ZSCORE", world.keys.due, world.idle.id)) > world.clock.ms


def test_a_job_completed_by_a_run_while_its_next_instant_was_missing_is_scheduled_again(
    world: World,
) -> None:
    """The next instant disappeared while a run was active."""
    world.call("HDEL", world.keys.job(world.running.id), "next_ms")
    world.call("ZREM", world.keys.due, world.running.id)
    claim = world.store.runs.claim(
        world.run_of["running"], token="running", now_ms=world.clock.ms, worker="w@host"
    )
    assert not isinstance(claim, str)
    world.store.runs.finish(claim, Outcome(state=RunState.SUCCEEDED), now_ms=world.clock.ms)
    assert world.store.jobs.get(world.running.id).state == "completed"
    (found,) = world.look()
    assert (found.trouble, found.job_id) == (DisagreementKind.STOPPED, world.running.id)
    assert world.store.jobs.get(world.running.id).state == "scheduled"
    assert world.call("ZSCORE", world.keys.completed, world.running.id) is None


def test_a_job_whose_last_run_vanished_is_completed(world: World) -> None:
    world.call("DEL", world.keys.run(world.run_of["once"]))
    assert {one.trouble for one in world.look()} == {
        DisagreementKind.GHOST,
        DisagreementKind.STOPPED,
    }
    assert world.store.jobs.get(world.once.id).state == "completed"


def test_a_held_run_is_queued_when_the_run_before_it_vanished(world: World) -> None:
    first = world.run_of["holding"]
    world.call("DEL", world.keys.run(first))
    world.examiner.repairs.job(world.holding.id, now_ms=world.clock.ms, token=None)
    assert world.call("HGETALL", world.keys.active(world.holding.id)) == {world.held: "queued"}
    assert world.call("EXISTS", world.keys.held(world.holding.id)) == 0
    pushed = world.store.runs.undelivered_since(world.clock.ms, limit=9)
    assert world.held in [one.run.id for one in pushed]


def test_active_runs_of_a_wrong_type_are_rebuilt_from_the_runs(world: World) -> None:
    """Otherwise the job could start a second run at the same time."""
    key = world.keys.active(world.running.id)
    world.call("SET", key, "x")
    world.look()
    assert world.call("HGETALL", key) == {world.run_of["running"]: "running"}


@pytest.mark.parametrize("state", [None, "waiting for godot", b"\xff"])
def test_an_unreadable_run_ends_as_lost(world: World, state: Any) -> None:
    key = world.keys.run(world.run_of["waiting"])
    world.call("HDEL", key, "state") if state is None else world.call("HSET", key, "state", state)
    assert {one.is_mended for one in world.look()} == {True}
    run = world.store.runs.get(world.run_of["waiting"])
    assert run.state is RunState.LOST
    assert (run.error or "").startswith("its record is unreadable")
    assert world.call("EXISTS", world.keys.active(world.waiting.id)) == 0
    assert world.call("ZSCORE", world.keys.queued, run.id) is None


def test_an_unknown_state_of_an_ended_run_is_kept(world: World) -> None:
    """A newer version wrote it, and nothing waits for the run."""
    key = world.keys.run(world.run_of["over"])
    world.call("HSET", key, "state", "evaporated", "delivery", "carved")
    before = world.dump()
    assert world.look() == []
    assert world.dump() == before


def test_an_unreadable_definition_is_reported_and_kept(world: World) -> None:
    key = world.keys.job(world.idle.id)
    world.call("HSET", key, "spec", b"\xff{")
    before = world.dump()
    (found,) = world.look()
    assert not found.is_mended
    assert "remove it and add it again" in found.text
    after = world.dump()
    assert after == before


def test_an_occurrence_that_was_put_off_is_not_a_disagreement(world: World) -> None:
    next_ms = int(world.call("HGET", world.keys.job(world.idle.id), "next_ms"))
    world.clock.ms = next_ms + 5
    world.store.due.defer([world.idle.id], until_ms=next_ms + 10_000, token=TOKEN,
                          now_ms=world.clock.ms)  # fmt: skip
    assert [one for one in world.look() if one.job_id == world.idle.id] == []
    world.clock.ms += 3_600_000
    world.call("ZADD", world.keys.due, world.clock.ms + 3_600_000, world.idle.id)
    assert [one.trouble for one in world.look() if one.job_id == world.idle.id] == [
        DisagreementKind.DISAGREES
    ]


def test_a_record_that_changed_between_check_and_repair_is_not_repaired(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision based on outdated facts writes nothing."""
    job, key = world.idle.id, world.keys.job(world.idle.id)
    world.call("ZREM", world.keys.due, job)
    run_many, moved = world.database.run_many, iter([True])

    def legally_changed_first(script: str, calls: Any) -> Any:
        if script == "mend" and next(moved, False):
            world.store.cron.pause("idle")
        return run_many(script, calls)

    monkeypatch.setattr(world.database, "run_many", legally_changed_first)
    assert world.look() == []
    assert world.call("HGET", key, "state") == "paused"
    assert world.call("ZSCORE", world.keys.due, job) is None


def test_a_finish_between_check_and_repair_wins(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = world.run_of["running"]
    world.call("ZREM", world.keys.heartbeats, run_id)
    run_many, first = world.database.run_many, iter([True])

    def finished_first(script: str, calls: Any) -> Any:
        if script == "mend" and next(first, False):
            claim = world.store.runs.claim(
                run_id, token="running", now_ms=world.clock.ms, worker="w@host"
            )
            assert not isinstance(claim, str)
            world.store.runs.finish(claim, Outcome(state=RunState.FAILED), now_ms=world.clock.ms)
        return run_many(script, calls)

    monkeypatch.setattr(world.database, "run_many", finished_first)
    assert world.look() == []
    assert world.store.runs.get(run_id).state is RunState.FAILED
    assert world.call("ZSCORE", world.keys.heartbeats, run_id) is None


def test_an_older_leader_repairs_nothing(world: World) -> None:
    world.call("ZREM", world.keys.due, world.idle.id)
    before = world.dump()
    with pytest.raises(LeaseLost):
        world.look(token=TOKEN - 1)
    assert world.dump() == before
    assert [one.is_mended for one in world.look(token=TOKEN)] == [True]


def test_one_job_can_be_checked_and_repaired_alone(world: World) -> None:
    world.call("SET", world.keys.active(world.waiting.id), "x")
    world.call("ZREM", world.keys.due, world.idle.id)
    found = world.examiner.repairs.job(world.waiting.id, now_ms=world.clock.ms, token=TOKEN)
    assert {one.job_id for one in found} == {world.waiting.id}
    assert world.call("HGETALL", world.keys.active(world.waiting.id)) == {
        world.run_of["waiting"]: "queued"
    }
    assert world.call("ZSCORE", world.keys.due, world.idle.id) is None


def test_a_quick_check_finds_every_disagreement_of_a_job(world: World) -> None:
    """In a quick check the script answers for suspicious jobs only."""
    quick = world.mode(mends=False, is_deep=False)
    world.examiner.repairs.count_shards()
    of_jobs = ("active runs: unknown", "active runs: garbage", "active runs: run of", "held",
               "active runs: wrong", "job without a due", "due entry at", "due entry with score",
               "a paused", "a completed job", "job with an invalid", "job missing")  # fmt: skip
    for name in [name for name in RESTORED if name.startswith(of_jobs)]:
        RESTORED[name](world)
        jobs = (world.idle, world.paused, world.over, world.holding, world.running)
        ids = [job.id for job in jobs]
        assert world.examiner.repairs.check(RecordsToCheck(jobs=ids), quick), name
        world.look()


def test_a_user_who_may_not_read_is_refused_and_nothing_is_repaired(
    world: World, valkey_url: str
) -> None:
    """A forbidden read must not be mistaken for a missing record."""
    before, user = world.dump(), f"reader-{world.keys.namespace}"
    world.call("ACL", "SETUSER", user, "on", ">p", "~*", "&*", "+@all", "-hmget")
    url = valkey_url.replace("unix://", f"unix://{user}:p@").replace(
        "redis://", f"redis://{user}:p@"
    )
    restricted = Database(connect(url), keys=world.keys)
    try:
        with pytest.raises(StoreError, match=r"hmget|can't run this command"):
            Repairs(restricted).job(world.idle.id, now_ms=world.clock.ms, token=None)
    finally:
        restricted.close()
        world.call("ACL", "DELUSER", user)
    assert world.dump() == before


@pytest.mark.parametrize("kind", ["string", "list", "set"])
def test_any_key_of_a_wrong_type_is_repaired_without_a_failing_script(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A script that fails halfway would leave half of a repair."""
    run_many = world.database.run_many
    failed: list[StoreError] = []

    def noting(script: str, calls: Any) -> Any:
        answers = run_many(script, calls)
        failed.extend(answer for answer in answers if isinstance(answer, StoreError))
        return answers

    monkeypatch.setattr(world.database, "run_many", noting)
    commands = {"string": "SET", "list": "RPUSH", "set": "SADD"}
    healthy = {key: world.database.call_raw("DUMP", key) for key in world.dump()}
    for key in healthy:
        world.call("DEL", key)
        world.call(commands[kind], key, "x")
        for _ in range(3):
            world.look()
        assert [one for one in world.look() if one.ops] == [], key
        for stored in world.call("KEYS", f"*{world.keys.namespace}*"):
            world.call("DEL", stored)
        for stored, dumped in healthy.items():
            world.call("RESTORE", stored, 0, dumped)
    assert failed == []
