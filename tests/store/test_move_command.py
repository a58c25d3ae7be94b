"""Tests of `hermes-celery move`: what it refuses, and the line that it prints for each job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hermes_celery.cli import main
from hermes_celery.store import Database, Formats, Neighbours, Repairs, namespaces_beside
from hermes_celery.store.keys import Keys
from tests.support import HandClock, Store, a_job


class Pair:
    """The source namespace with the jobs, and the target namespace."""

    def __init__(self, here: Store, there: Store, shared: Database) -> None:
        self.here, self.there, self.shared = here, there, shared
        self.source = here.database.keys.namespace
        self.target = there.database.keys.namespace

    def add(self, *letters: str) -> None:
        for letter in letters:
            self.here.jobs.add(a_job(id=letter * 12, name=letter))

    def move(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["-N", self.target, "move", "--from", self.source,
                                         *arguments])  # fmt: skip

    def moved(self) -> set[str]:
        return {job.name for job in self.there.jobs.all()}


@pytest.fixture
def unknown(
    valkey: Database, valkey_url: str, clock: HandClock, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Pair]:  # fmt: skip
    """Yield two namespaces; the target is not registered and no beat serves it."""
    for name in ("HERMES_CELERY_NAMESPACE", "HERMES_CELERY_QUEUE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HERMES_REDIS_URL", valkey_url)
    monkeypatch.setenv("HERMES_HOME", str(tmp_path))
    clock.ms = valkey.now_ms()
    there = Database(valkey.client, keys=Keys(namespace=f"{valkey.keys.namespace}-z"))
    shared = Database(valkey.client, keys=Keys())
    pair = Pair(Store(valkey, clock), Store(there, clock), shared)
    yield pair
    shared.call("HDEL", shared.keys.projects, pair.target)


@pytest.fixture
def pair(unknown: Pair) -> Pair:
    """Return two namespaces; the target is registered as a project's."""
    Neighbours(unknown.shared, namespace=unknown.target).enter()
    return unknown


def test_an_unknown_target_namespace_is_refused_without_force(unknown: Pair) -> None:
    unknown.add("a")
    result = unknown.move("a")
    assert result.exit_code == 1
    assert f"no beat serves namespace '{unknown.target}'" in result.stderr
    assert unknown.moved() == set()
    # With --force the jobs move, and the namespace is registered.
    assert unknown.move("a", "--force").exit_code == 0
    assert unknown.moved() == {"a"}
    assert unknown.target in namespaces_beside(unknown.shared)


def test_a_target_namespace_that_a_beat_serves_is_registered(unknown: Pair) -> None:
    unknown.add("a")
    Formats(unknown.there.database).say_here("beat b", now_ms=unknown.there.database.now_ms())
    assert unknown.move("a").exit_code == 0
    assert unknown.target in namespaces_beside(unknown.shared)


def test_nothing_moves_while_a_worker_of_0_1_0_is_running(pair: Pair) -> None:
    pair.add("a")
    here = pair.here.database
    here.call("ZADD", here.keys.workers, here.now_ms(), "old@host")
    result = pair.move("a", "--force")
    assert result.exit_code == 1
    assert "(worker old@host) and would discard messages of moved jobs" in result.stderr
    assert pair.moved() == set()


def test_an_unknown_job_name_moves_nothing(pair: Pair) -> None:
    pair.add("a")
    result = pair.move("a", "nosuch")
    assert result.exit_code == 1
    assert "nosuch" in result.stderr
    assert pair.moved() == set()


@pytest.mark.parametrize("how", [[], ["--json"]])
def test_a_job_that_cannot_move_is_reported_in_one_line_and_the_others_move(
    pair: Pair, how: list[str]
) -> None:
    pair.add("a", "b", "c")
    broken = pair.here.database
    broken.call("SET", broken.keys.active("a" * 12), "x")
    broken.call("HSET", broken.keys.job("c" * 12), "spec", "x")
    result = pair.move("a", "c", "b", "b" * 12, *how)
    assert result.exit_code == 1, result.output
    assert pair.moved() == {"b"}
    if how:
        rows = json.loads(result.stdout)
        assert [row["moved"] for row in rows] == ["broken", "broken", "ok"]
        assert "WRONGTYPE" not in rows[0]["why"]
        assert broken.keys.active("a" * 12) in rows[0]["why"]
    else:
        first, second, third = result.stdout.splitlines()
        assert first.startswith(f"{'a' * 12}  a  not moved: ")
        assert second.startswith(f"{'c' * 12}  not moved: ")
        assert third == f"{'b' * 12}  b  moved"


def test_a_job_with_a_running_run_is_reported_as_running_in_json(pair: Pair) -> None:
    pair.add("a")
    run_id = pair.here.cron.run("a" * 12)
    pair.here.claim(run_id)
    Formats(pair.there.database).say_here("worker w@host", now_ms=pair.here.database.now_ms())
    result = pair.move("a", "--json")
    assert result.exit_code == 1
    assert [row["moved"] for row in json.loads(result.stdout)] == ["running"]


def test_a_global_pause_is_copied_to_the_target_namespace(pair: Pair) -> None:
    pair.add("a")
    pair.here.cron.pause_all(note="holiday")
    result = pair.move("a")
    assert result.exit_code == 0
    assert pair.there.due.switch().note == "holiday"
    assert f"`hermes-celery -N {pair.target} resume --all` resumes them" in result.stderr


def test_a_job_with_an_invalid_next_instant_moves_after_its_repair(pair: Pair) -> None:
    pair.add("a", "b")
    here = pair.here.database
    key = here.keys.job("a" * 12)
    here.call("HSET", key, "next_ms", f" {here.call('HGET', key, 'next_ms')}")
    result = pair.move("a", "b")
    assert result.exit_code == 1
    first, second = result.stdout.splitlines()
    assert "not moved" in first
    assert "next_ms" in first
    assert second.endswith("  b  moved")
    assert [job.name for job in pair.here.jobs.all()] == ["a"]
    Repairs(here).job("a" * 12, now_ms=here.now_ms(), token=None)
    assert pair.move("a").exit_code == 0
    assert pair.moved() == {"a", "b"}
