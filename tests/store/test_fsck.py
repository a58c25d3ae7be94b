"""Tests of `fsck`: it finds all disagreements of a namespace, and `--repair` repairs them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hermes_celery.cli import main
from hermes_celery.scheduling.lease import Lease
from hermes_celery.store import Database, DueIndex
from hermes_celery.store.shared_keys import shared_types
from tests.store.disorder import World
from tests.support import HandClock

SHARED = ("shards", "beats", "lease", "term", "leader", "due", "jobs", "names", "runs", "job_runs",
          "queued", "heartbeats", "completed", "grown", "mark", "switch", "deliveries",
          "incidents", "workers", "consumers", "taken", "queues", "foreign", "sweep", "refill",
          "format", "programs", "projects", "refused", "letters", "letters_total", "default_queue",
          "delivery_queue")  # fmt: skip


@pytest.fixture
def world(
    valkey: Database, valkey_url: str, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> World:
    """Return a namespace with jobs in every state, and point the command line at it."""
    monkeypatch.setenv("HERMES_REDIS_URL", valkey_url)
    monkeypatch.setenv("HERMES_CELERY_NAMESPACE", valkey.keys.namespace)
    # The command uses the server's time, and nothing here may have expired by then.
    clock.ms = (valkey.now_ms() // 60_000 - 120) * 60_000
    return World(valkey, clock)


def fsck(*options: str) -> Result:
    return CliRunner().invoke(main, ["fsck", *options])


def test_a_consistent_namespace_is_reported_as_such_and_not_changed(world: World) -> None:
    before = world.dump()
    for options in ([], ["--repair"]):
        result = fsck(*options)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("9 jobs and ")
        assert result.stdout.endswith(": all agree\n")
    assert world.dump() == before


def test_fsck_writes_nothing_without_repair(world: World) -> None:
    world.call("ZREM", world.keys.due, world.idle.id)
    before = world.dump()
    result = fsck()
    assert result.exit_code == 1
    assert f"wrong    job {world.idle.id} was not in the due index" in result.stdout
    assert "0 repaired, 1 left; `hermes-celery fsck --repair` repairs what it can" in result.stdout
    assert world.dump() == before
    result = fsck("--repair")
    assert result.exit_code == 0
    assert f"repaired job {world.idle.id} was not in the due index" in result.stdout
    assert fsck().exit_code == 0


def test_a_broken_definition_is_left_for_a_person(world: World) -> None:
    world.call("HSET", world.keys.job(world.idle.id), "spec", "{")
    result = fsck("--repair", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert [one["mended"] for one in report["findings"]] == [False]
    assert report["summary"]["left"] == 1
    assert report["findings"][0]["job_id"] == world.idle.id


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_key_of_another_type_is_rebuilt_and_jobs_run_again(
    world: World, name: str
) -> None:
    """The content of each shared key follows from the records."""
    key, before = str(getattr(world.keys, name)), world.dump()
    wrong: tuple[Any, ...] = ("SET", key, "x")
    if shared_types(world.keys, shards=1)[key] == "string":
        wrong = ("RPUSH", key, "x")
    world.call("DEL", key)
    world.call(*wrong)
    assert fsck().exit_code == 1
    assert fsck("--repair").exit_code == 0
    assert fsck().exit_code == 0
    assert world.quarantined() == [key.removeprefix(world.keys.prefix)]
    after = world.dump()
    index = {world.keys.due, world.keys.jobs, world.keys.names, world.keys.job_runs}
    assert {key: after.get(key) for key in index} == {key: before[key] for key in index}
    for members in (world.keys.queued, world.keys.heartbeats, world.keys.runs):
        assert {row[0] for row in after[members]} == {row[0] for row in before[members]}
    runs_again(world)


def runs_again(world: World) -> None:
    """Check that a beat leads with a higher term and ticks what is due."""
    world.call("DEL", world.keys.lease)
    term = Lease(world.database, owner="another", clock=world.clock).hold()
    assert term is not None
    assert term > 7
    world.call("SET", world.keys.term, 7)
    world.clock.ms += 3_600_000
    next_ms = DueIndex(world.database).next_due_ms()
    assert next_ms is not None
    assert next_ms <= world.clock.ms
    world.tick()
    assert world.store.due.due_ids(world.clock.ms, limit=9) == []


@pytest.mark.parametrize("term", ["abc", "-3", "", "3", "007"])
def test_a_repaired_term_is_never_lower_than_before(world: World, term: str) -> None:
    world.call("SET", world.keys.term, term)
    assert fsck("--repair").exit_code == 0
    assert int(world.call("GET", world.keys.term)) >= 8


def test_an_unknown_term_becomes_the_time_in_seconds_at_least(world: World) -> None:
    world.call("DEL", world.keys.leader, world.keys.term)
    world.call("RPUSH", world.keys.term, "x")
    now_ms = world.database.now_ms()
    assert fsck("--repair").exit_code == 0
    assert int(world.call("GET", world.keys.term)) >= now_ms // 1000


@pytest.mark.parametrize("shards", ["1000000000", "none", "0", "-1", ""])
def test_an_absurd_number_of_shards_becomes_one_and_all_jobs_move_to_it(
    world: World, shards: str
) -> None:
    due = world.call("ZRANGE", world.keys.due, 0, -1)
    world.call("RENAME", world.keys.due, world.keys.due_of(5))
    world.call("SET", world.keys.shards, shards)
    assert fsck("--repair").exit_code == 0
    assert world.call("GET", world.keys.shards) == "1"
    assert world.call("ZRANGE", world.keys.due, 0, -1) == due
    assert world.call("EXISTS", world.keys.due_of(5)) == 0
    runs_again(world)


def test_a_lease_without_an_expiry_gets_one(world: World) -> None:
    world.call("SET", world.keys.lease, "a beat that died")
    assert fsck("--repair").exit_code == 0
    assert 0 <= int(world.call("PTTL", world.keys.lease)) <= 1000


def test_an_unreadable_pause_pauses_nothing_after_a_repair(world: World) -> None:
    world.call("HSET", world.keys.switch, "paused_ms", "abc")
    assert fsck("--repair").exit_code == 0
    assert world.store.due.switch().paused_ms is None


def test_open_incidents_and_notices_are_indexed_again(world: World) -> None:
    keys = world.keys
    world.call("HSET", keys.incident("broken-x"), "last_ms", 5, "kind", "missed")
    world.call("HSET", keys.incident("closed"), "last_ms", 5, "closed_ms", 6)
    world.call("HSET", keys.delivery("notice-1"), "text", "hear")
    world.call("HSET", keys.delivery("notice-2"), "text", "heard")
    world.call("EXPIRE", keys.delivery("notice-2"), 100)
    assert fsck("--repair").exit_code == 0
    assert world.call("ZRANGE", keys.incidents, 0, -1) == ["broken-x"]
    assert world.call("ZSCORE", keys.deliveries, "notice-1") is not None
    assert world.call("ZSCORE", keys.deliveries, "notice-2") is None


@pytest.mark.parametrize("family", ["group", "troubles", "incident", "managed", "output"])
def test_other_keys_of_a_wrong_type_are_quarantined(world: World, family: str) -> None:
    key = str(getattr(world.keys, family)("x"))
    world.call(*(("RPUSH", key, "x") if family == "output" else ("SET", key, "x")))
    assert fsck("--repair").exit_code == 0
    assert world.quarantined() == [f"{family}:x"]


def test_all_shared_keys_of_wrong_types_are_repaired_at_once(world: World) -> None:
    for name in SHARED:
        key = str(getattr(world.keys, name))
        world.call("DEL", key)
        # No shared key is a set except `grown`, which gets a sorted set.
        world.call("GEOADD", key, 1, 1, "x") if name == "grown" else world.call("SADD", key, "x")
    assert fsck("--repair").exit_code == 0
    assert fsck().exit_code == 0
    runs_again(world)
