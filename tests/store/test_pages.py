"""Tests of lists that are read page by page, while entries are added and removed."""

from __future__ import annotations

import pytest

from hermes_celery.core.job import Job, JobState
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.errors import JobNotFound, RunNotFound
from hermes_celery.store import History, Retention, Write
from hermes_celery.store.pages import PAGE, Order, PagePosition, pages, position_of
from tests.support import Store, a_job, replaced


def add_jobs(store: Store, count: int, *, name: str = "job {}", created_ms: int = 5) -> list[Job]:
    """Add jobs with one creation time, in the order of their ids."""
    job = a_job()
    jobs = [
        replaced(
            job,
            spec=replaced(
                job.spec, id=f"{number:012x}", name=name.format(number), created_ms=created_ms
            ),
        )
        for number in range(count)
    ]
    store.jobs.write_many([Write(job=job) for job in jobs])
    return jobs


def test_a_page_position_stays_valid_after_its_member_is_removed(store: Store) -> None:
    for member, score in (("a", 1), ("b", 2), ("ba", 2), ("c", 2), ("d", 3)):
        store.database.call("ZADD", "{x}:z", score, member)
    up = {
        "": "a b ba c d", "1 a": "b ba c d", "2 aa": "b ba c d", "2 b": "ba c d", "2 bb": "c d",
        "2 c": "d", "2 x": "d", "2.5 x": "d", "3 d": "", "9 x": "",
    }  # fmt: skip
    down = {"": "d c ba b a", "0 x": "", "1 a": "", "1 x": "a", "2 b": "a", "2 bb": "ba b a"}
    for order, expected in ((Order.UP, up), (Order.DOWN, down)):
        for place, members in expected.items():
            at, _, member = place.partition(" ")
            after = PagePosition(score=at, member=member) if place else None
            found = [m for page in pages(store.database, "{x}:z", order=order, after=after)
                     for m in page]  # fmt: skip
            assert found == members.split(), (order, place)
    assert position_of(store.database, "{x}:z", "d") == PagePosition(score="3", member="d")
    assert position_of(store.database, "{x}:z", "x") is None
    assert list(pages(store.database, "{x}:none", order=Order.DOWN)) == []


def test_removing_jobs_while_listing_skips_no_other_job(store: Store) -> None:
    jobs = add_jobs(store, 2 * PAGE + 50)
    seen = []
    for job in store.jobs.all():
        seen.append(job.id)
        store.jobs.remove(job)
    assert seen == [job.id for job in jobs]
    assert store.jobs.count() == 0


def test_adding_a_job_in_front_while_listing_repeats_no_other_job(store: Store) -> None:
    jobs = add_jobs(store, PAGE + 50)
    listing = store.jobs.all()
    seen = [next(listing).id for _ in range(PAGE)]
    early = a_job()
    store.jobs.add(replaced(early, spec=replaced(early.spec, id="f" * 12, created_ms=1)))
    assert [*seen, *(job.id for job in listing)] == [job.id for job in jobs]


def test_a_listing_continues_after_a_job_given_by_id_or_name(store: Store) -> None:
    jobs = add_jobs(store, 5)
    for reference in (jobs[2].id, "job 2"):
        assert list(store.cron.find_jobs(after=reference)) == jobs[3:]
    assert store.jobs.count_after(jobs[2]) == 2
    assert list(store.cron.find_jobs(after=jobs[4].id)) == []
    store.jobs.remove(jobs[2])
    assert store.jobs.count_after(jobs[2]) == 0
    with pytest.raises(JobNotFound):
        store.cron.find_jobs(after=jobs[2].id)
    with pytest.raises(JobNotFound):
        store.jobs.matching(after=jobs[2].id)


def test_jobs_are_found_by_a_prefix_of_their_names(store: Store) -> None:
    jobs = add_jobs(store, 12, name="Zähler {}")
    other = a_job(name="zahl")
    store.jobs.add(other)
    by_name = [jobs[n] for n in (0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9)]
    assert list(store.cron.find_jobs(name="ZÄHLER")) == by_name
    assert list(store.cron.find_jobs(name="zähler 1")) == by_name[1:4]
    assert list(store.cron.find_jobs(name="zähler", after=jobs[11].id)) == by_name[4:]
    assert store.jobs.count_after(jobs[11], name="zähler") == 8
    assert list(store.cron.find_jobs(name="zähler 1", after=other.id)) == by_name[1:4]
    assert list(store.cron.find_jobs(name="zähler 1", after=jobs[9].id)) == []
    assert list(store.cron.find_jobs(name="nobody")) == []


def test_jobs_are_found_by_state(store: Store) -> None:
    jobs = add_jobs(store, 2 * PAGE)
    for number in (3, PAGE + 3):
        store.cron.pause(jobs[number].id)
    paused = store.cron.find_jobs(state=JobState.PAUSED)
    assert [job.id for job in paused] == [jobs[3].id, jobs[PAGE + 3].id]
    assert list(store.cron.find_jobs(state=JobState.SCHEDULED, name="job 3")) == [
        job for job in sorted(jobs, key=lambda job: job.name)
        if job.name.startswith("job 3") and job.id not in (jobs[3].id, jobs[PAGE + 3].id)
    ]  # fmt: skip


def run_many(store: Store, count: int) -> list[str]:
    """Run a job several times; return the run ids, newest first."""
    ids = []
    for _ in range(count):
        store.clock.advance(1)
        ids.append(store.cron.run("aaaaaaaaaaaa"))
        outcome = Outcome(state=RunState.SUCCEEDED)
        store.runs.finish(store.claim(ids[-1]), outcome, now_ms=store.clock.ms)
    return ids[::-1]


def test_runs_of_all_jobs_or_of_one_job_are_listed_after_a_given_run(store: Store) -> None:
    store.jobs.add(a_job())
    ids = run_many(store, 5)
    other = a_job()
    store.jobs.add(replaced(other, spec=replaced(other.spec, id="b" * 12)))
    foreign = store.cron.run("b" * 12)
    for reference in (None, "aaaaaaaaaaaa"):
        found = store.cron.latest_runs(reference, after=ids[1], limit=2)
        assert [run.id for run in found] == ids[2:4]
    for unknown in (foreign, "x"):
        with pytest.raises(RunNotFound):
            store.cron.latest_runs("aaaaaaaaaaaa", after=unknown)
    with pytest.raises(RunNotFound):
        store.cron.latest_runs(after=f"{ids[0]}0")


def test_the_first_4096_bytes_of_many_outputs_are_read_unchanged(store: Store) -> None:
    store.jobs.add(a_job())
    ids = [store.cron.run("aaaaaaaaaaaa") for _ in range(3)]
    for run_id, output in zip(ids, (b"\xff\xfe\0", b"y" * 5_000), strict=False):
        outcome = Outcome(state=RunState.SUCCEEDED, output=output)
        store.runs.finish(store.claim(run_id), outcome, now_ms=store.clock.ms)
    assert store.runs.beginnings(ids) == [b"\xff\xfe\0", b"y" * 4096, b""]
    assert store.runs.beginnings([]) == []


def test_more_runs_than_one_page_are_listed(store: Store) -> None:
    store.jobs.add(a_job())
    ids = run_many(store, PAGE + 3)
    for reference in (None, "aaaaaaaaaaaa"):
        assert [run.id for run in store.cron.latest_runs(reference, limit=9_999)] == ids
    for order in Order:
        found = pages(store.database, store.database.keys.runs, order=order)
        assert [len(page) for page in found] == [PAGE, 3]
    history = History(store.database, retention=Retention(runs_per_job=PAGE + 1))
    history.trim(store.clock.ms)
    assert len(store.cron.latest_runs("aaaaaaaaaaaa", limit=9_999)) == PAGE + 1
