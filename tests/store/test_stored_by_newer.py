"""Tests that records of a newer version are shown, kept through every change, and not misread."""

from __future__ import annotations

import msgspec
import pytest

from hermes_celery.core.job import Job, JobRequest, UnreadableJob
from hermes_celery.core.run import RunState
from hermes_celery.errors import JobError, RecordBroken
from hermes_celery.scheduling.declared_jobs import DeclaredJobs, synchronise
from hermes_celery.scheduling.tick import Ticker
from hermes_celery.store import BrokenJob
from hermes_celery.store.jobs import NewerRecord
from tests.support import NOON, Store, a_job

TOKEN = 7
UNKNOWN = {
    "colour": "blue",
    "policy": {"retries": 2, "patience": {"days": 3}},
    "origin": {"platform": "telegram", "mood": "good"},
}


def rewritten(store: Store, job: Job, **fields: object) -> None:
    """Change a stored definition as a newer version would."""
    spec = {**msgspec.to_builtins(job.spec), **fields}
    store.database.call("HSET", store.database.keys.job(job.id), "spec", msgspec.json.encode(spec))


def stored(store: Store, job_id: str) -> dict[str, object]:
    text = store.database.call("HGET", store.database.keys.job(job_id), "spec")
    spec: dict[str, object] = msgspec.json.decode(text)
    return spec


def request(**fields: object) -> JobRequest:
    return JobRequest(**{"schedule": "every 1h", "prompt": "p", "name": "n", **fields})  # type: ignore[arg-type]


def test_unknown_fields_survive_pause_resume_and_edit(store: Store) -> None:
    job = store.cron.add(request())
    rewritten(store, job, **UNKNOWN)
    store.cron.pause("n")
    store.cron.resume("n")
    store.cron.edit("n", {"prompt": "another"})
    store.cron.edit("n", {"schedule": "every 2h"})
    spec = stored(store, job.id)
    assert spec["prompt"] == "another"
    assert spec["colour"] == "blue"
    assert spec["policy"] == {"retries": 2, "patience": {"days": 3}}
    assert spec["origin"] == {"platform": "telegram", "mood": "good"}


def test_an_unknown_field_inside_an_otherwise_default_policy_survives(
    store: Store,
) -> None:
    job = store.cron.add(request())
    rewritten(store, job, policy={"patience": 3})
    store.cron.edit("n", {"prompt": "another"})
    assert stored(store, job.id)["policy"] == {"patience": 3}


def test_unknown_fields_of_replaced_work_are_removed_with_it(store: Store) -> None:
    job = store.cron.add(request(prompt=None, script="x.sh"))
    rewritten(store, job, http={"url": "http://x/", "proxy": "y"}, script=None, no_agent=False)
    assert store.cron.show("n").spec.http is not None
    store.cron.edit("n", {"http": None, "prompt": "p"})
    assert "http" not in stored(store, job.id)


def test_unknown_fields_of_the_hash_survive_an_edit(store: Store) -> None:
    job = store.cron.add(request())
    store.database.call("HSET", store.database.keys.job(job.id), "shade", "dark")
    store.cron.edit("n", {"prompt": "another"})
    assert store.database.call("HGET", store.database.keys.job(job.id), "shade") == "dark"


def test_unknown_fields_survive_a_changed_declaration(store: Store) -> None:
    synchronise(
        store.jobs,
        DeclaredJobs(manager="m", requests={"n": request()}, default_timezone="UTC"),
        now=NOON,
    )
    (job,) = store.jobs.all()
    rewritten(store, job, colour="blue")
    declared = {"n": request(prompt="another")}
    synchronise(
        store.jobs, DeclaredJobs(manager="m", requests=declared, default_timezone="UTC"), now=NOON
    )
    spec = stored(store, job.id)
    assert (spec["prompt"], spec["colour"]) == ("another", "blue")


def test_a_job_without_unknown_fields_is_read_as_it_was_written(store: Store) -> None:
    job = store.cron.add(request())
    assert store.cron.show(job.id) == job


@pytest.mark.parametrize(
    "fields", [{"policy": {"overlap": "negotiate"}}, {"session": "shared"},
               {"prompt": "", "grpc": {"call": "x"}}],
)  # fmt: skip
def test_a_job_with_an_unknown_policy_or_work_is_neither_changed_nor_planned(
    store: Store, fields: dict[str, object]
) -> None:
    job = store.cron.add(request())
    rewritten(store, job, **fields)
    before = stored(store, job.id)
    database = store.database
    database.call("SET", database.keys.term, TOKEN)
    store.clock.advance(3601)
    report = Ticker(store.due, store.messages).tick(token=TOKEN, now_ms=store.clock.ms)
    assert (report.dispatched, report.broken) == (0, 1)
    (found,) = store.cron.find_jobs()
    assert isinstance(found, UnreadableJob)
    assert found.is_newer
    assert (found.name, found.state) == ("n", "scheduled")
    with pytest.raises(NewerRecord, match="a newer version of hermes-celery wrote it"):
        store.cron.pause(job.id)
    assert stored(store, job.id) == before
    # The job stays due, for a newer beat that may lead by then.
    again_ms = store.due.next_due_ms()
    assert again_ms is not None
    assert store.clock.ms < again_ms <= store.clock.ms + 60_000
    assert Ticker(store.due, store.messages).tick(token=TOKEN, now_ms=store.clock.ms).broken == 0
    rewritten(store, job)
    store.clock.advance(60)
    assert (
        Ticker(store.due, store.messages).tick(token=TOKEN, now_ms=store.clock.ms).dispatched == 1
    )


def test_a_damaged_definition_is_not_taken_for_a_newer_one(store: Store) -> None:
    job = store.cron.add(request())
    database = store.database
    database.call("HSET", database.keys.job(job.id), "spec", '{"policy":')
    (found,) = store.cron.find_jobs()
    assert isinstance(found, UnreadableJob)
    assert not found.is_newer
    assert f"hermes-celery remove {job.id}" in found.fault


def test_an_unknown_state_of_a_job_is_shown_and_kept_through_an_edit(store: Store) -> None:
    job = store.cron.add(request())
    key = store.database.keys.job(job.id)
    store.database.call("HSET", key, "state", "archived")
    assert store.cron.show("n").as_json()["state"] == "archived"
    store.cron.edit("n", {"schedule": "every 3h", "prompt": "q"})
    assert store.database.call("HGET", key, "state") == "archived"
    for change in (store.cron.pause, store.cron.resume):
        with pytest.raises(JobError, match="'archived', a state of a newer version"):
            change("n")


def test_an_unknown_state_and_trigger_of_a_run_are_shown(store: Store) -> None:
    store.cron.add(request())
    run_id = store.cron.run("n")
    key = store.database.keys.run(run_id)
    store.database.call("HSET", key, "state", "dreaming", "trigger", "moon")
    run = store.runs.get(run_id)
    assert (run.as_json()["state"], run.trigger.value, run.fault) == ("dreaming", "moon", None)
    assert run.state not in list(RunState)


def test_a_job_with_a_too_early_due_entry_runs_at_its_own_time(store: Store) -> None:
    job = store.jobs.add(a_job())
    database = store.database
    database.call("SET", database.keys.term, TOKEN)
    database.call("ZADD", database.keys.due, "-inf", job.id)
    report = Ticker(store.due, store.messages).tick(token=TOKEN, now_ms=store.clock.ms)
    assert (report.dispatched, report.broken) == (0, 1)
    assert isinstance(report.faults[0], BrokenJob)
    store.clock.advance(3600)
    assert (
        Ticker(store.due, store.messages).tick(token=TOKEN, now_ms=store.clock.ms).dispatched == 1
    )


def test_resuming_a_job_repairs_its_invalid_instants(store: Store) -> None:
    job = store.cron.add(request())
    key = store.database.keys.job(job.id)
    store.database.call("HSET", key, "next_ms", "soon", "paused_ms", "then")
    assert (
        store.cron.show("n").fault
        == "next_ms is 'soon', not a whole number, paused_ms is 'then', not a whole number"
    )
    store.cron.pause("n")
    resumed = store.cron.resume("n")
    assert resumed.fault is None
    assert store.cron.show("n") == resumed


def test_removing_an_unreadable_job_moves_its_record_to_quarantine(store: Store) -> None:
    job = store.cron.add(request())
    database = store.database
    database.call("HDEL", database.keys.job(job.id), "revision")
    with pytest.raises(RecordBroken):
        store.cron.show(job.id)
    removed = store.cron.remove(job.id)
    assert isinstance(removed, UnreadableJob)
    assert list(store.cron.find_jobs()) == []
    for index in (database.keys.jobs, database.keys.names, database.keys.due):
        assert database.call("ZCARD", index) == 0
    kept = database.keys.quarantine(database.keys.job(job.id), at_ms=store.clock.ms)
    assert database.call("HGET", kept, "spec")
