"""Tests of writing many jobs at once: each is written whole or not at all, with its outcome."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hermes_celery.core.job import Job, JobRequest, JobState
from hermes_celery.errors import Conflict, JobError, ScheduleError, StoreError
from hermes_celery.scheduling.declared_jobs import DeclaredJobs, SyncReport, synchronise
from hermes_celery.store import WRITES, BrokenJob, Jobs, Write, Written
from tests.support import NOON, Store, a_job, replaced

_REQUEST = JobRequest(schedule="every 1h", prompt="x")


def numbered(number: int, **fields: object) -> Job:
    """Return a job that is not stored yet, with an id of its own."""
    job = a_job(name=f"job {number}")
    numbered: Job = replaced(job, spec=replaced(job.spec, id=f"{number:012x}", **fields))
    return numbered


def words(outcomes: list[Written]) -> list[str]:
    return [type(outcome).__name__ for outcome in outcomes]


def test_many_jobs_are_stored_as_if_written_one_by_one(store: Store) -> None:
    jobs = [numbered(number) for number in range(2 * WRITES + 1)]
    assert store.jobs.write_many([Write(job=job) for job in jobs]) == jobs
    assert list(store.jobs.all()) == jobs
    assert store.jobs.ids_named("JOB 7") == [f"{7:012x}"]
    assert store.due.next_due_ms() == store.clock.ms + 3_600_000
    assert len(store.due.due(store.clock.ms + 3_600_000, limit=9_999)) == len(jobs)
    assert store.jobs.write_many([]) == []


def test_conflicts_among_many_writes_are_reported_and_the_others_are_done(store: Store) -> None:
    taken, changed, gone = (store.jobs.add(numbered(number)) for number in range(3))
    store.jobs.remove(gone)
    outcomes = store.jobs.write_many(
        [
            Write(job=numbered(0, prompt="another")),
            Write(job=replaced(changed, state=JobState.PAUSED), was=changed),
            Write(job=replaced(gone, state=JobState.PAUSED), was=gone),
            Write(job=numbered(3, prompt="y" * 300_000)),
            Write(job=numbered(4)),
        ]
    )
    assert words(outcomes) == ["Conflict", "Job", "Conflict", "JobError", "Job"]
    assert store.jobs.get(taken.id) == taken
    assert store.jobs.get(changed.id).state is JobState.PAUSED
    assert store.jobs.stored([f"{n:012x}" for n in range(5)]) == {taken.id, changed.id, f"{4:012x}"}


def test_a_write_that_the_server_refuses_does_not_affect_the_others(store: Store) -> None:
    store.database.call("SET", store.database.keys.job(f"{1:012x}"), "not a hash")
    outcomes = store.jobs.write_many([Write(job=numbered(number)) for number in range(3)])
    assert words(outcomes) == ["Job", "RecordBroken", "Job"]
    assert [job.id for job in store.jobs.all()] == [f"{0:012x}", f"{2:012x}"]


def test_scripts_that_the_server_forgot_are_loaded_again(store: Store) -> None:
    store.jobs.write_many([Write(job=numbered(0))])
    store.database.call("SCRIPT", "FLUSH")
    outcomes = store.jobs.write_many([Write(job=numbered(number)) for number in (1, 2)])
    assert words(outcomes) == ["Job", "Job"]
    assert store.jobs.count() == 3


def test_a_write_repeated_after_a_lost_answer_is_not_a_conflict(store: Store) -> None:
    job = numbered(0)
    added = store.jobs.add(job)
    store.database.call("HSET", store.database.keys.job(job.id), "next_ms", store.clock.ms)
    assert store.jobs.add(job) == added
    paused = store.cron.pause(job.id, reason="r")
    again = replaced(added, state=JobState.PAUSED, paused_at=NOON, paused_reason="r")
    assert store.jobs.change(again, was=added).revision == paused.revision
    assert store.jobs.get(job.id).revision == 2
    with pytest.raises(Conflict):
        store.jobs.change(replaced(again, paused_reason="another"), was=added)
    with pytest.raises(Conflict):
        store.jobs.add(job)


def test_add_many_returns_the_jobs_in_the_order_of_the_requests(store: Store) -> None:
    requests = [replaced(_REQUEST, name=f"n{number}") for number in range(WRITES + 1)]
    jobs = store.cron.add_many((request for request in requests), paused=True)
    assert [job.name for job in jobs] == [request.name for request in requests]
    assert {job.state for job in jobs} == {JobState.PAUSED}
    assert {job.id: job for job in store.cron.all_jobs()} == {job.id: job for job in jobs}


def test_add_many_names_a_refused_request_and_writes_nothing(store: Store) -> None:
    wrong = JobRequest(schedule="61 * * * *", prompt="x", name="wrong")
    with pytest.raises(JobError, match=r"^job 2 of 3 \('wrong'\): .*minute") as error:
        store.cron.add_many([_REQUEST, wrong, _REQUEST])
    assert isinstance(error.value.__cause__, ScheduleError)
    assert store.database.call("KEYS", f"{store.database.keys.prefix}*") == []


def test_add_many_uses_another_id_when_one_is_taken(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = iter(["aaaaaaaaaaaa", "aaaaaaaaaaaa", "bbbbbbbbbbbb"])
    monkeypatch.setattr("hermes_celery.client.new_job_id", lambda: next(ids))
    jobs = store.cron.add_many([replaced(_REQUEST, name=name) for name in ("one", "two")])
    assert [(job.id, job.name) for job in jobs] == [
        ("aaaaaaaaaaaa", "one"),
        ("bbbbbbbbbbbb", "two"),
    ]


def test_add_many_raises_when_the_server_refuses_a_job(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes_celery.client.new_job_id", lambda: "aaaaaaaaaaaa")
    store.database.call("SET", store.database.keys.job("aaaaaaaaaaaa"), "not a hash")
    with pytest.raises(StoreError):
        store.cron.add_many([_REQUEST])


def declare(jobs: Jobs, *requests: JobRequest, later: timedelta = timedelta(0)) -> SyncReport:
    declared = {request.name or "": request for request in requests}
    return synchronise(
        jobs, DeclaredJobs(manager="m", requests=declared, default_timezone="UTC"), now=NOON + later
    )


def test_many_declared_jobs_are_synchronised(store: Store) -> None:
    names = [f"n{number:04d}" for number in range(WRITES + 2)]
    requests = [replaced(_REQUEST, name=name) for name in names]
    mine = store.cron.add(_REQUEST)
    assert sorted(declare(store.jobs, *requests).added) == names
    assert len(store.jobs.managed_by("m")) == len(names)
    before = list(store.jobs.all())
    assert declare(store.jobs, *requests, later=timedelta(1)) == SyncReport()
    assert list(store.jobs.all()) == before
    requests[3] = replaced(requests[3], prompt="changed")
    report = declare(store.jobs, *requests[2:])
    assert report.changed == (names[3],)
    assert sorted(report.removed) == names[:2]
    assert store.jobs.get(mine.id) == mine
    assert store.jobs.count() == len(names) - 1


@pytest.mark.parametrize("mended", [_REQUEST, replaced(_REQUEST, prompt="mended")])
def test_a_declared_job_in_the_error_state_is_scheduled_again_by_a_sync(
    store: Store, mended: JobRequest
) -> None:
    declare(store.jobs, replaced(_REQUEST, name="a"))
    (job,) = store.jobs.all()
    broken = BrokenJob(job_id=job.id, revision=str(job.revision), error="no such zone")
    store.database.call("SET", store.database.keys.term, 1)
    store.due.fault(broken, token=1)
    assert [one.state for one in store.jobs.all()] == [JobState.ERROR]
    report = declare(store.jobs, replaced(mended, name="a"), later=timedelta(hours=1))
    assert report.changed == ("a",)
    (job,) = store.jobs.all()
    assert (job.state, job.next_run_at) == (JobState.SCHEDULED, NOON + timedelta(hours=2))
    assert store.database.call("ZCARD", store.database.keys.due) == 1


def test_a_declared_job_that_is_too_large_does_not_stop_the_others(store: Store) -> None:
    large = replaced(_REQUEST, name="large", prompt="é" * 90_000, template="x" * 100_000)
    report = declare(store.jobs, large, replaced(_REQUEST, name="small"))
    assert report.added == ("small",)
