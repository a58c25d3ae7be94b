"""Tests of the sharded due index: each shard has one leader, and each job one shard."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hermes_celery.core.job import Job
from hermes_celery.errors import StoreError
from hermes_celery.instant import to_ms
from hermes_celery.scheduling.beat import Beat
from hermes_celery.scheduling.leader_duties import LeaderDuties
from hermes_celery.scheduling.lease import LEASE_MS, RENEW_SECONDS, Lease
from hermes_celery.scheduling.living_beats import LivingBeats
from hermes_celery.scheduling.resharding import reshard
from hermes_celery.scheduling.run_rescue import Rescuer
from hermes_celery.scheduling.shard import Shard
from hermes_celery.store import Database, DueIndex, History, Jobs, Retention, Shards, Waker, Write
from hermes_celery.store.database import shard_of
from tests.support import NOON, Store, a_job, replaced

JOBS = 60


class Impatient(Waker):
    """A waker that checks for a wake-up call and never waits for one."""

    def wait(self, seconds: float) -> bool:
        return super().wait(0)


def lease(store: Store, owner: str, shard: int) -> Lease:
    return Lease(store.database, owner=owner, clock=store.clock, shard=shard)


def beat(store: Store, owner: str, *, waker: Waker | None = None) -> Beat:
    database, clock = store.database, store.clock
    return Beat(
        LivingBeats(Shards(database), owner=owner, clock=clock),
        lambda number: Shard(
            number,
            lease=lease(store, owner, number),
            due_index=DueIndex(database, shard=number),
            messages=store.messages,
            clock=clock,
        ),
        LeaderDuties(
            Rescuer(store.jobs, store.runs, store.messages),
            History(database, retention=Retention()),
            clock=clock,
        ),
        waker=waker or Impatient(database),
        clock=clock,
    )


def split(store: Store, count: int) -> int:
    return reshard(Shards(store.database), count, lease_of=lambda s: lease(store, "resharding", s))


def add_jobs(store: Store, first: int = 0) -> None:
    for number in range(first, first + JOBS):
        store.jobs.add(a_job(id=f"{number:012x}", name=f"n{number}"))


def leaders(store: Store, count: int) -> list[str]:
    keys = store.database.keys
    return [store.database.call("GET", keys.lease_of(shard)) for shard in range(count)]


def jobs_by_shard(store: Store) -> dict[int, set[str]]:
    """Return the ids of the jobs in each shard."""
    keys = store.database.keys
    return {n: set(store.database.call("ZRANGE", keys.due_of(n), 0, -1)) for n in range(8)}


def test_a_namespace_without_a_shard_count_has_one_shard(store: Store) -> None:
    add_jobs(store)
    keys = store.database.keys
    assert (store.database.shards, keys.due_of(0), keys.lease_of(0)) == (1, keys.due, keys.lease)
    assert len(jobs_by_shard(store)[0]) == JOBS


def test_each_job_is_in_the_shard_of_its_id_before_and_after_resharding(store: Store) -> None:
    add_jobs(store)
    moved = split(store, 8)
    add_jobs(store, first=JOBS)
    by_shard = jobs_by_shard(store)
    assert sum(map(len, by_shard.values())) == 2 * JOBS
    assert all(shard_of(j, shards=8) == n for n, ids in by_shard.items() for j in ids)
    assert moved == JOBS - len([j for j in by_shard[0] if int(j, 16) < JOBS])
    split(store, 3)
    assert sum(map(len, jobs_by_shard(store).values())) == 2 * JOBS
    split(store, 1)
    assert len(jobs_by_shard(store)[0]) == 2 * JOBS


def test_splitting_keeps_when_each_job_is_due(store: Store) -> None:
    for number in range(JOBS):
        at = NOON + timedelta(minutes=number)
        store.jobs.add(replaced(a_job(id=f"{number:012x}"), next_run_at=at))
    split(store, 4)
    found = [
        (ms, job_id)
        for shard in range(4)
        for job_id, ms in store.database.client.zrange(
            store.database.keys.due_of(shard), 0, -1, withscores=True
        )
    ]
    assert sorted(int(ms) for ms, _ in found) == [
        to_ms(NOON + timedelta(minutes=n)) for n in range(JOBS)
    ]


def test_the_number_of_shards_is_not_changed_while_a_beat_leads(store: Store) -> None:
    add_jobs(store)
    lease(store, "somebody", 0).hold()
    with pytest.raises(StoreError, match=r"somebody leads; stop every beat"):
        split(store, 4)
    assert Shards(store.database).count() == 1
    assert len(jobs_by_shard(store)[0]) == JOBS


@pytest.mark.parametrize("count", [0, -1, 65])
def test_a_number_of_shards_outside_1_to_64_is_refused(store: Store, count: int) -> None:
    with pytest.raises(StoreError, match=r"1 to 64"):
        split(store, count)


def test_interrupted_resharding_can_be_repeated(store: Store) -> None:
    """It was killed after the number was written, before the rest was moved."""
    add_jobs(store)
    Shards(store.database).set_count(4)
    assert split(store, 4) > 0
    assert all(shard_of(j, shards=4) == n for n, ids in jobs_by_shard(store).items() for j in ids)


def test_a_job_in_a_wrong_shard_is_moved_by_the_tick_that_finds_it(store: Store) -> None:
    add_jobs(store)
    Shards(store.database).set_count(2)
    store.database.forget_shards()
    store.clock.advance(3600)
    alone = beat(store, "a")
    for _ in range(3):
        alone.step()
    assert len(set(store.queue())) == JOBS
    assert all(shard_of(j, shards=2) == n for n, ids in jobs_by_shard(store).items() for j in ids)


def test_one_beat_leads_all_shards(store: Store) -> None:
    split(store, 8)
    add_jobs(store)
    store.clock.advance(3600)
    report = beat(store, "a").step()
    assert report is not None
    assert (report.dispatched, leaders(store, 8)) == (JOBS, ["a"] * 8)


def test_beats_share_the_shards_and_together_dispatch_everything_once(store: Store) -> None:
    split(store, 8)
    add_jobs(store)
    beats = [beat(store, name) for name in "abc"]
    for _ in range(4):
        for one in beats:
            one.step()
        store.clock.advance(RENEW_SECONDS + 0.01)
    assert leaders(store, 8) == list("abcabcab")
    store.clock.advance(3600 - 4 * (RENEW_SECONDS + 0.01))
    store.clock.seconds -= 3600  # the leases are renewed as usual
    reports = [one.step() for one in beats]
    assert sum(report.dispatched for report in reports if report) == JOBS
    assert all(report and report.dispatched for report in reports), "each beat must dispatch a part"
    assert len(set(store.queue())) == JOBS


def test_other_beats_take_the_shards_of_a_dead_beat_when_its_leases_expire(store: Store) -> None:
    split(store, 4)
    first, second = beat(store, "a"), beat(store, "b")
    for _ in range(3):
        first.step()
        second.step()
        store.clock.advance(RENEW_SECONDS + 0.01)
    assert leaders(store, 4) == ["a", "b", "a", "b"]
    # The first beat is dead; its leases expire by the server's own clock.
    for shard in (0, 2):
        store.database.call("DEL", store.database.keys.lease_of(shard))
    store.clock.advance(LEASE_MS / 1000 + 0.01)
    second.step()
    assert leaders(store, 4) == ["b"] * 4


def test_other_beats_take_the_shards_of_a_stopped_beat_at_once(store: Store) -> None:
    split(store, 4)
    first, second = beat(store, "a"), beat(store, "b")
    for _ in range(3):
        first.step()
        second.step()
        store.clock.advance(RENEW_SECONDS + 0.01)
    first.stop()
    second.step()
    assert leaders(store, 4) == ["b"] * 4


def test_a_beat_reads_the_number_of_shards_again_when_it_begins_to_lead(store: Store) -> None:
    """The beat stood by, or was between two leases, when the number was changed."""
    waiting = beat(store, "a")
    holder = lease(store, "b", 0)
    holder.hold()
    waiting.step()
    holder.release()
    add_jobs(store)
    split(store, 4)
    store.clock.advance(3600)
    dispatched = [waiting.step() for _ in range(3)]
    assert sum(report.dispatched for report in dispatched if report) == JOBS
    assert leaders(store, 4) == ["a"] * 4


def test_a_program_with_an_outdated_number_of_shards_writes_to_a_shard_that_is_ticked(
    store: Store,
) -> None:
    """It was started before the number was lowered; no beat ticks the removed shards."""
    split(store, 8)
    other = Database(store.database.client, keys=store.database.keys)
    assert other.shards == 8
    split(store, 1)
    jobs = [a_job(id=f"{number:012x}") for number in range(JOBS)]
    written = Jobs(other).write_many([Write(job=job) for job in jobs])
    assert all(isinstance(job, Job) for job in written)
    assert len(jobs_by_shard(store)[0]) == JOBS
    assert sum(map(len, jobs_by_shard(store).values())) == JOBS


def test_a_beat_still_sleeps_after_the_number_of_shards_was_reduced_to_one(store: Store) -> None:
    split(store, 4)
    naps: list[float] = []

    class Noting(Impatient):
        def wait(self, seconds: float) -> bool:
            naps.append(seconds)
            return super().wait(seconds)

    one = beat(store, "a", waker=Noting(store.database))
    one.step()
    # The beat is cut off for a while; no beat leads, and the number is changed.
    store.clock.advance(LEASE_MS / 1000 + 0.1)
    store.database.call("DEL", *(store.database.keys.lease_of(shard) for shard in range(4)))
    split(store, 1)
    for _ in range(4):
        store.clock.advance(RENEW_SECONDS + 0.01)
        one.step()
    assert leaders(store, 1) == ["a"]
    assert naps[-1] == RENEW_SECONDS
    assert store.database.call("ZCARD", store.database.keys.beats) == 0


def test_editing_pausing_and_removing_a_job_update_its_shard(store: Store) -> None:
    split(store, 8)
    add_jobs(store)
    edited, paused, removed = (f"{number:012x}" for number in range(3))
    store.cron.edit(edited, {"schedule": "every 2h"})
    store.cron.pause(paused)
    store.cron.remove(removed)
    everywhere = set().union(*jobs_by_shard(store).values())
    assert edited in everywhere
    assert not everywhere & {paused, removed}
    store.cron.resume(paused)
    assert paused in set().union(*jobs_by_shard(store).values())
