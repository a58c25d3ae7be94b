"""A tour: one concept per test, from a job to its output. Read it from top to bottom.

The store is a real Valkey server. Only Celery is missing: the test plays beat and worker.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from hermes_celery.core.job import JobRequest, JobState, Origin
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.errors import Conflict, LeaseLost, ScheduleError
from hermes_celery.schedule import parse
from hermes_celery.scheduling.lease import Lease
from hermes_celery.scheduling.tick import Ticker
from hermes_celery.session import bound, get_session_env, session_of
from hermes_celery.store import Claim, Database
from tests.support import NOON, HandClock, Store


@pytest.fixture
def store(valkey: Database, clock: HandClock) -> Store:
    """Return a namespace of a real server with a clock that the test sets."""
    return Store(valkey, clock)


def test_a_schedule_returns_the_next_instant() -> None:
    """A text and a time zone go in, instants come out; nothing reads the clock."""
    schedule = parse("weekdays at 9am", timezone="Europe/Berlin")
    friday = datetime.fromisoformat("2026-06-26T12:00:00+02:00")
    assert schedule.next_after(friday) == datetime.fromisoformat("2026-06-29T09:00:00+02:00")
    with pytest.raises(ScheduleError, match="minute"):
        parse("60 * * * *")


def test_a_job_is_checked_once_and_found_by_id_or_name(store: Store) -> None:
    """A job is checked once, gets an id, and is found by its id or its name."""
    job = store.cron.add(JobRequest(schedule="every 2h", prompt="Look at the disks", name="disks"))
    assert store.cron.show("DISKS") == job
    assert job.next_run_at == NOON + timedelta(hours=2)


def test_a_change_is_compare_and_set(store: Store) -> None:
    """If two people edit the same revision, the second edit is refused and nothing is lost."""
    job = store.cron.add(JobRequest(schedule="every 2h", prompt="x"))
    store.cron.edit(job.id, {"prompt": "mine"}, expected_revision=job.revision)
    with pytest.raises(Conflict):
        store.cron.edit(job.id, {"prompt": "theirs"}, expected_revision=job.revision)


def test_a_lease_says_which_beat_may_tick(store: Store) -> None:
    """The token rises with every change of leader, so scripts recognise an old leader."""
    first, second = (
        Lease(store.database, owner=name, clock=store.clock) for name in ("first", "second")
    )
    token = first.hold()
    assert token is not None
    assert second.hold() is None
    first.release()
    assert second.hold() == token + 1


def test_a_tick_moves_the_schedule_and_queues_the_run_in_one_step(store: Store) -> None:
    """Schedule, record and message are written together or not at all, never by an older leader."""
    store.cron.add(JobRequest(schedule="every 2h", prompt="x", name="disks"))
    token = Lease(store.database, owner="beat", clock=store.clock).hold()
    assert token is not None
    store.clock.advance(7200)
    with pytest.raises(LeaseLost):
        Ticker(store.due, store.messages).tick(token=token - 1, now_ms=store.clock.ms)
    report = Ticker(store.due, store.messages).tick(token=token, now_ms=store.clock.ms)
    (run,) = store.cron.latest_runs("disks")
    assert (report.dispatched, run.state, store.queue()) == (1, RunState.QUEUED, [run.id])
    assert store.cron.show("disks").next_run_at == NOON + timedelta(hours=4)


def test_a_claim_says_which_worker_may_run_it(store: Store) -> None:
    """A message may be delivered twice. The claim is granted once; only its holder may finish."""
    run_id = store.cron.run(store.cron.add(JobRequest(schedule="every 2h", prompt="x")).id)
    claim = store.runs.claim(run_id, token="a", now_ms=store.clock.ms, worker="one")
    assert isinstance(claim, Claim)
    assert store.runs.claim(run_id, token="b", now_ms=store.clock.ms, worker="two") == "taken"
    outcome = Outcome(state=RunState.SUCCEEDED, output=b"all is well")
    assert store.runs.finish(claim, outcome, now_ms=store.clock.ms) == "ok"
    assert store.runs.output(run_id) == b"all is well"


def test_a_session_belongs_to_one_run(store: Store) -> None:
    """The user and chat that a job was made for are bound while it runs, and cleared afterwards."""
    origin = Origin(platform="telegram", chat_id="-1001")
    job = store.cron.add(JobRequest(schedule="every 2h", prompt="x", origin=origin))
    with bound(session_of(job.spec, run_id="r", due_ms=store.clock.ms)):
        assert get_session_env("HERMES_SESSION_CHAT_ID") == "-1001"
    assert get_session_env("HERMES_SESSION_CHAT_ID", "nobody") == "nobody"


def test_a_one_shot_is_completed_when_its_run_ends(store: Store) -> None:
    """A one-shot job stays scheduled until its run ends; only that completes the job."""
    job = store.cron.add(JobRequest(schedule="in 30m", prompt="x"))
    token = Lease(store.database, owner="beat", clock=store.clock).hold() or 0
    store.clock.advance(1800)
    Ticker(store.due, store.messages).tick(token=token, now_ms=store.clock.ms)
    assert store.cron.show(job.id).state is JobState.SCHEDULED
    claim = store.claim(store.queue()[0])
    store.runs.finish(claim, Outcome(state=RunState.SUCCEEDED), now_ms=store.clock.ms)
    assert store.cron.show(job.id).state is JobState.COMPLETED
