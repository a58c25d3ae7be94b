"""Tests of moving a job to another namespace with all its records, in one step or not at all."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from hermes_celery.core.incidents import Trouble, TroubleKind
from hermes_celery.core.job import Job, JobState, UnreadableJob
from hermes_celery.core.run import RunState, job_id_of
from hermes_celery.errors import RecordBroken
from hermes_celery.store import CheckMode, Database, Incidents, Jobs, Moved, Mover, Records, Repairs
from hermes_celery.store.keys import Keys
from tests.recorded_stores import recording
from tests.support import HandClock, Store, a_job, replaced

_OVER = {"lease", "leader", "term", "workers", "mark", "shards", "beats", "switch", "grown"}


@pytest.fixture
def other(database: Database, namespace: str) -> Database:
    """Return another namespace of the same server."""
    return Database(database.client, keys=Keys(namespace=f"{namespace}-z"))


@pytest.fixture
def there(other: Database, clock: HandClock) -> Store:
    return Store(other, clock)


def declared(schedule: str) -> Job:
    job = a_job(schedule)
    return Job(spec=replaced(job.spec, managed_by="project:shop"), next_run_at=job.next_run_at)


def move(store: Store, there: Store, job_id: str) -> Moved:
    job = store.jobs.get(job_id)
    return Mover(store.database, there.database).move(job, now_ms=store.clock.ms)


def dump(database: Database) -> dict[str, Any]:
    """Return all keys of a namespace, without its prefix, with their values."""
    prefix, found = database.keys.prefix, {}
    for key in database.client.scan_iter(f"{prefix}*", count=1000):
        found[str(key).removeprefix(prefix)] = value_of(database, str(key))
    return found


def value_of(database: Database, key: str) -> Any:
    read = {
        "string": ("GET",),
        "hash": ("HGETALL",),
        "list": ("LRANGE", 0, -1),
        "set": ("SMEMBERS",),
        "zset": ("ZRANGE", 0, -1, "WITHSCORES"),
    }[database.call("TYPE", key)]
    found = database.client.execute_command(read[0], key, *read[1:])
    return sorted(map(str, found)) if isinstance(found, (set, list)) else found


def test_a_moved_job_is_unchanged_and_runs_in_its_new_namespace(store: Store, there: Store) -> None:
    store.jobs.add(declared("every 1h"))
    run_id = store.cron.run("a" * 12)
    failed = Trouble(kind=TroubleKind.FAILURE, subject="x", text="t", job_id="a" * 12)
    Incidents(store.database).report(failed, now_ms=1)
    was = store.jobs.get("a" * 12)
    assert move(store, there, was.id) is Moved.OK
    assert there.jobs.get(was.id) == was
    assert list(store.jobs.all()) == []
    assert store.due.next_due_ms() is None
    assert there.due.next_due_ms() is not None
    assert (store.jobs.managed_by("project:shop"), there.jobs.managed_by("project:shop")) == (
        [],
        [was.id],
    )
    assert [one.id for one in Incidents(there.database).of_job(was.id)] == ["failure-x"]
    assert Incidents(store.database).count() == 0
    there.claim(run_id)
    assert there.runs.get(run_id).state is RunState.RUNNING
    assert store.runs.latest(limit=9) == []


def test_the_record_left_behind_is_paused_and_in_no_index(store: Store, there: Store) -> None:
    """Version 0.1.0 declares the job again, finds this record, and changes nothing."""
    store.jobs.add(a_job("every 1h"))
    move(store, there, "a" * 12)
    left = store.database.hash(store.database.keys.job("a" * 12))
    assert (left["state"], left.get("next_ms")) == ("paused", None)
    assert left["paused_reason"] == f"moved to namespace {there.database.keys.namespace}"
    assert store.jobs.get_many(["a" * 12]) == {}
    assert store.jobs.count() == 0
    assert store.jobs.ids_named("p") == []
    repairs, records = Repairs(store.database), Records(store.database)
    found = [
        finding
        for page in records.everything(shards=1)
        for finding in repairs.check(page.work, CheckMode(now_ms=store.clock.ms, mends=True))
    ]
    assert found == []
    assert store.jobs.count() == 0
    store.clock.advance(7200)
    assert store.due.due_ids(store.clock.ms, limit=9) == []


def test_a_job_with_a_running_run_does_not_move_until_its_heartbeat_expires(
    store: Store, there: Store
) -> None:
    store.jobs.add(a_job("every 1h"))
    run_id = store.cron.run("a" * 12)
    store.claim(run_id)
    before = dump(store.database)
    assert move(store, there, "a" * 12) is Moved.RUNNING
    # The script itself checks for a claim that comes after the first check.
    mover = Mover(store.database, there.database)
    assert mover._step(store.jobs.get("a" * 12), now_ms=store.clock.ms) == "running"
    assert dump(store.database) == before
    store.clock.advance(16)
    assert move(store, there, "a" * 12) is Moved.OK
    assert there.runs.silent_since(store.clock.ms, limit=9) == [run_id]


def test_many_runs_move_in_pages_and_an_interrupted_move_can_be_repeated(
    store: Store, there: Store
) -> None:
    store.jobs.add(a_job("every 1h"))
    ids = []
    for _ in range(230):
        ids.append(store.cron.run("a" * 12))
        store.runs.cancel(ids[-1], reason="x", now_ms=store.clock.ms)
        store.clock.advance(1)
    waiting = store.cron.run("a" * 12)
    mover = Mover(store.database, there.database)
    # This mover is killed before its last step.
    mover._move_history("a" * 12)
    assert [run.id for run in store.runs.latest(limit=999)] == [waiting]
    assert len(there.runs.latest(limit=999)) == 230
    assert mover.move(store.jobs.get("a" * 12), now_ms=store.clock.ms) is Moved.OK
    assert {run.id for run in there.runs.latest(job_id="a" * 12, limit=999)} == {*ids, waiting}


def test_a_job_can_move_back_and_its_id_can_be_used_again(store: Store, there: Store) -> None:
    was = store.jobs.add(a_job("every 1h"))
    move(store, there, was.id)
    assert move(there, store, was.id) is Moved.OK
    assert (store.jobs.get(was.id), store.jobs.count(), there.jobs.count()) == (was, 1, 0)
    assert store.database.call("TTL", store.database.keys.job(was.id)) == -1
    move(store, there, was.id)
    new = store.jobs.add(a_job("every 2h"))
    assert (new.revision, store.jobs.get(new.id).spec.schedule) == (1, "every 2h")
    assert store.due.next_due_ms() is not None


def test_a_moved_job_that_0_1_0_resumes_is_scheduled_again(store: Store, there: Store) -> None:
    was = store.jobs.add(a_job("every 1h"))
    move(store, there, was.id)
    key = store.database.keys.job(was.id)
    store.database.call("HSET", key, "revision", was.revision + 1, "state", "scheduled")
    assert store.jobs.get(was.id).state is JobState.SCHEDULED


def test_a_job_declared_again_in_the_target_is_removed_from_the_source(
    store: Store, there: Store
) -> None:
    store.jobs.add(declared("every 1h"))
    there.jobs.add(declared("every 2h"))
    assert move(store, there, "a" * 12) is Moved.THERE
    assert store.due.next_due_ms() is None
    assert store.jobs.managed_by("project:shop") == []
    assert there.jobs.get("a" * 12).spec.schedule == "every 2h"


def test_a_job_that_keeps_changing_is_reported_as_busy_and_does_not_move(
    store: Store, there: Store
) -> None:
    seen = store.jobs.add(a_job("every 1h"))
    store.cron.pause(seen.id)
    mover = Mover(store.database, there.database)
    answer = mover.move(seen, now_ms=store.clock.ms)
    assert (answer, answer.value) == (Moved.BUSY, "busy")
    assert there.jobs.count() == 0


@pytest.mark.parametrize("name", ["due", "runs", "deliveries"])
def test_a_broken_key_in_the_target_prevents_the_move_and_changes_nothing(
    store: Store, there: Store, name: str
) -> None:
    store.jobs.add(a_job("every 1h"))
    store.cron.run("a" * 12)
    before = dump(store.database)
    there.database.call("SET", getattr(there.database.keys, name), "x")
    with pytest.raises(RecordBroken):
        move(store, there, "a" * 12)
    assert dump(store.database) == before


@pytest.mark.parametrize("shards", [1, 4])
def test_jobs_stored_by_0_1_0_move_with_all_their_records(
    valkey: Database, namespace: str, shards: int
) -> None:
    recorded = recording("0.1.0", shards=shards, namespace=namespace)
    recorded.load(valkey)
    other = Database(valkey.client, keys=Keys(namespace=f"{namespace}-z"))
    before, now_ms = dump(valkey), recorded.now_ms + 3_600_000
    try:
        jobs = list(Jobs(valkey).matching())
        assert not any(isinstance(job, UnreadableJob) for job in jobs)
        for job in jobs:
            assert isinstance(job, Job)
            assert Mover(valkey, other).move(job, now_ms=now_ms) is Moved.OK
        after, ids = dump(other), {job.id for job in jobs}
        for name, value in before.items():
            first = name.split(":")[0]
            if first in ("due", *_OVER) or not _belongs(name, ids):
                continue
            if first in ("run", "job"):
                assert after[name] | {"queue": ""} == value | {"queue": ""}, name
            elif ":" in name:
                assert after[name] == value, name
        for name in ("jobs", "names", "completed", "job-runs", "queued", "heartbeats"):
            kept = [row for row in before.get(name, []) if any(one in row for one in ids)]
            assert [row for row in after.get(name, []) if any(one in row for one in ids)] == kept
        due = [row for name, rows in before.items() if name.split(":")[0] == "due" for row in rows]
        assert sorted(after["due"]) == sorted(due)
        assert _troubles(other, now_ms) == []
    finally:
        recorded.unload(valkey)


def _belongs(name: str, ids: set[str]) -> bool:
    """Return whether a key belongs to one of the jobs, or to a run of one of them."""
    first, _, rest = name.partition(":")
    if first in ("job", "active", "held"):
        return rest in ids
    return first in ("run", "output", "stderr") and job_id_of(rest) in ids


def _troubles(database: Database, now_ms: int) -> list[str]:
    """Return the disagreements among all job records."""
    repairs, records = Repairs(database), Records(database)
    mode = CheckMode(now_ms=now_ms, mends=False)
    return [one.text for page in records.jobs() for one in repairs.check(page.work, mode)]


def test_a_global_pause_is_copied_to_the_target_namespace(store: Store, there: Store) -> None:
    mover = Mover(store.database, there.database)
    assert not mover.follow_switch(now_ms=store.clock.ms)
    store.cron.pause_all(note="holiday")
    assert mover.follow_switch(now_ms=store.clock.ms)
    assert there.due.switch().note == "holiday"
    assert not mover.follow_switch(now_ms=store.clock.ms)


def test_a_moved_job_without_a_next_run_is_not_due(store: Store, there: Store) -> None:
    job = replaced(a_job("every 1h"), state=JobState.PAUSED, next_run_at=None)
    store.jobs.add(job)
    assert move(store, there, job.id) is Moved.OK
    assert there.due.next_due_ms() is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spec", None),
        ("revision", None),
        *product(("revision", "next_ms"), ("", "junk", " 1789000000000", "9" * 19)),
    ],
)
def test_a_job_with_broken_fields_does_not_move_and_is_not_changed(
    store: Store, there: Store, name: str, value: str | None
) -> None:
    job = store.jobs.add(declared("every 1h"))
    seen = store.jobs.get(job.id)
    key = store.database.keys.job(job.id)
    if value is None:
        store.database.call("HDEL", key, name)
    else:
        store.database.call("HSET", key, name, value)
    before = (dump(store.database), dump(there.database))
    mover = Mover(store.database, there.database)
    with pytest.raises(RecordBroken) as caught:
        mover.move(seen, now_ms=store.clock.ms)
    assert caught.value.key == key
    assert name in caught.value.what
    assert (dump(store.database), dump(there.database)) == before
