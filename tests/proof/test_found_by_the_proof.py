"""Regression tests for bugs that the proof found."""

from __future__ import annotations

import pytest

from hermes_celery.core.job import JobRequest, JobState
from hermes_celery.core.policy import Overlap, Policy
from hermes_celery.scheduling.tick import Ticker, TickReport
from hermes_celery.store import BrokenJob, Database
from tests.support import HandClock, Store, replaced


@pytest.fixture
def store(database: Database, clock: HandClock) -> Store:
    store = Store(database, clock)
    database.call("SET", database.keys.term, 1)
    return store


def ticked(store: Store) -> TickReport:
    return Ticker(store.due, store.messages).tick(token=1, now_ms=store.clock.ms)


def test_an_edit_that_crosses_a_tick_keeps_the_count_of_runs(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", repeat=2))
    store.clock.advance(3600)
    read = store.cron.show(job.id)
    assert ticked(store).dispatched == 1
    store.jobs.change(replaced(read, spec=replaced(read.spec, prompt="y")), was=read)
    assert store.cron.show(job.id).completed == 1


def test_a_run_that_is_held_back_ends_when_its_job_is_removed(store: Store) -> None:
    policy = Policy(overlap=Overlap.QUEUE_ONE)
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", policy=policy))
    store.cron.run(job.id)
    store.clock.advance(3600)
    assert ticked(store).held == 1
    store.cron.remove(job.id)
    for _ in range(2):
        for run_id in store.queue():
            store.runs.claim(run_id, token="t", now_ms=store.clock.ms, worker="w")
    assert [run.state.is_final for run in store.runs.latest(limit=9)] == [True, True]


def test_a_job_repaired_after_a_tick_read_it_stays_scheduled(
    store: Store,
) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    store.clock.advance(3600)
    # A tick has read a broken definition, and goes on after the job was repaired.
    store.cron.edit(job.id, {"prompt": "mended"})
    store.due.fault(BrokenJob(job_id=job.id, revision=str(job.revision), error="broken"), token=1)
    assert store.cron.show(job.id).state is JobState.SCHEDULED
