"""Tests of writing jobs: found by id or name, compare-and-set, refused before any write."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest

from hermes_celery.core.job import JobRequest, JobState
from hermes_celery.errors import (
    AmbiguousJobReference,
    Conflict,
    HermesCeleryError,
    JobError,
    JobNotFound,
)
from hermes_celery.instant import to_ms
from hermes_celery.store import Database, Jobs
from tests.support import NOON, HandClock, Store, a_job, replaced


def test_a_job_is_read_as_it_was_written(store: Store) -> None:
    job = store.cron.add(
        JobRequest(
            schedule="0 9 * * 1-5",
            timezone="Europe/Berlin",
            prompt="näh — 🜲",
            name="Früh",
            skills=["a", "b"],
            context_from="x ",
            enabled_toolsets=["web"],
            repeat=3,
        )
    )
    assert store.cron.show("FRÜH") == job
    assert job.revision == 1
    assert job.spec.timezone == "Europe/Berlin"
    assert list(store.cron.all_jobs()) == [job]


def test_an_id_wins_over_a_name(store: Store) -> None:
    first = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="first"))
    store.cron.add(JobRequest(schedule="every 1h", prompt="x", name=first.id))
    assert store.cron.show(first.id) == first


def test_a_shared_name_is_refused_with_the_ids(store: Store) -> None:
    ids = sorted(
        store.cron.add(JobRequest(schedule="every 1h", prompt="x", name=name)).id
        for name in ("dup", "DUP")
    )
    with pytest.raises(AmbiguousJobReference) as error:
        store.cron.pause("Dup")
    assert sorted(error.value.ids) == ids
    assert "matches 2 jobs" in str(error.value)


def test_part_of_a_name_or_id_is_not_a_reference(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="morning"))
    for reference in ("morn", job.id[:6], "", "../../x", "morning "[:-2]):
        with pytest.raises(JobNotFound):
            store.cron.show(reference)


def test_two_people_editing_one_job_get_a_conflict_not_a_lost_update(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="n"))
    mine = store.cron.edit(job.id, {"prompt": "mine"}, expected_revision=1)
    with pytest.raises(Conflict) as error:
        store.cron.edit(job.id, {"prompt": "theirs"}, expected_revision=1)
    assert "Nothing was written" in str(error.value)
    assert store.cron.show(job.id) == mine
    with pytest.raises(Conflict):
        store.jobs.change(job, was=job)
    assert store.cron.show(job.id) == mine


def test_ticks_do_not_raise_the_revision(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    store.clock.advance(3600)
    store.cron.run(job.id)
    assert store.cron.show(job.id).revision == 1


def test_renaming_forgets_the_old_name(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="old"))
    store.cron.edit("old", {"name": "new"})
    assert store.cron.show("new").id == job.id
    with pytest.raises(JobNotFound):
        store.cron.show("old")


def test_a_new_schedule_begins_now_and_other_changes_leave_it_alone(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 60m", prompt="x"))
    store.clock.advance(600)
    assert store.cron.edit(job.id, {"prompt": "y"}).next_run_at == NOON + timedelta(minutes=60)
    edited = store.cron.edit(job.id, {"schedule": "every 10m"})
    assert edited.next_run_at == NOON + timedelta(minutes=20)
    assert edited.spec.created_ms == job.spec.created_ms
    assert store.due.next_due_ms() == store.clock.ms + 600_000


def test_a_paused_job_stays_paused_when_its_schedule_changes(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 60m", prompt="x"))
    store.cron.pause(job.id, reason="maint")
    edited = store.cron.edit(job.id, {"schedule": "every 10m"})
    # It shows the new schedule's next instant, and is not due before it is resumed.
    assert (edited.state, edited.next_run_at) == (JobState.PAUSED, NOON + timedelta(minutes=10))
    assert store.due.next_due_ms() is None


def test_resuming_a_job_that_is_not_paused_changes_nothing(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    store.clock.advance(25 * 60)
    assert store.cron.resume(job.id) == job
    assert store.cron.show(job.id) == job
    assert store.database.call("ZSCORE", store.database.keys.due, job.id) == to_ms(
        NOON + timedelta(hours=1)
    )


def test_a_second_pause_keeps_the_first_reason_and_instant(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    paused = store.cron.pause(job.id, reason="maint")
    store.clock.advance(60)
    assert store.cron.pause(job.id) == paused
    again = store.cron.pause(job.id, reason="longer")
    assert (again.paused_reason, again.paused_at) == ("longer", paused.paused_at)


def test_pause_takes_a_job_off_the_schedule_and_resume_goes_on_from_now(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 60m", prompt="x", name="alpha"))
    paused = store.cron.pause("ALPHA", reason="maint")
    assert paused.as_json() | {"paused_at": "2026-06-22T12:00:00+00:00"} == paused.as_json()
    assert (paused.state, paused.paused_reason, paused.next_run_at) == (
        JobState.PAUSED,
        "maint",
        job.next_run_at,
    )
    assert store.due.next_due_ms() is None
    store.clock.advance(86_400)
    resumed = store.cron.resume("alpha")
    assert (resumed.state, resumed.paused_at, resumed.paused_reason) == (
        JobState.SCHEDULED,
        None,
        None,
    )
    assert resumed.next_run_at == NOON + timedelta(days=1, hours=1)
    assert store.cron.show("alpha") == resumed


def test_a_one_shot_in_the_past_cannot_be_resumed(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="in 10m", prompt="x"))
    store.cron.pause(job.id)
    store.clock.advance(600 + 121)
    with pytest.raises(JobError, match="is in the past"):
        store.cron.resume(job.id)
    assert store.cron.show(job.id).state is JobState.PAUSED


def test_removing_leaves_no_trace_in_any_index(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 60m", prompt="x", name="n"))
    assert store.cron.remove("n") == job
    assert store.jobs.count() == 0
    assert store.jobs.ids_named("n") == []
    assert store.due.next_due_ms() is None
    with pytest.raises(JobNotFound):
        store.cron.remove("n")


def test_ids_are_never_reused_by_add(store: Store) -> None:
    store.jobs.add(a_job())
    with pytest.raises(Conflict):
        store.jobs.add(a_job("every 2h"))
    assert store.jobs.get("aaaaaaaaaaaa").spec.schedule_display == "every 1h"


@pytest.mark.parametrize(
    "request_fields",
    [
        {"schedule": "60 * * * *", "prompt": "x"},
        {"schedule": "0 9 * * *", "prompt": "x", "timezone": "Europe/Atlantis"},
        {"schedule": "every 5m"},
        {"schedule": "every 5m", "no_agent": True},
        {"schedule": "every 5m", "script": "../../etc/passwd"},
        {"schedule": "every 5m", "script": "/etc/passwd"},
        {"schedule": "every 5m", "prompt": "x", "name": "n" * 10_000},
        {"schedule": "every 5m", "prompt": "x", "name": "a\x1b[31mb"},
        {"schedule": "every 5m", "prompt": "x" * 100_001},
        {"schedule": "every 5m", "prompt": "x", "workdir": "rel"},
    ],
    ids=lambda fields: ",".join(f"{k}={str(v)[:20]}" for k, v in fields.items()),
)
def test_bad_input_is_refused_before_anything_is_written(
    store: Store, request_fields: dict[str, Any]
) -> None:
    with pytest.raises(HermesCeleryError) as error:
        store.cron.add(JobRequest(**request_fields))
    assert len(str(error.value)) < 500
    assert store.database.call("KEYS", f"{store.database.keys.prefix}*") == []


def test_an_unknown_field_is_refused_by_name(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 5m", prompt="x"))
    with pytest.raises(JobError, match="no field colour"):
        store.cron.edit(job.id, {"colour": "red"})


def test_listing_reads_page_by_page_in_the_order_of_creation(store: Store) -> None:
    job = a_job()
    for number in range(450):
        spec = replaced(job.spec, id=f"{number:012x}", created_ms=number)
        store.jobs.add(replaced(job, spec=spec))
    assert [found.id for found in store.cron.all_jobs()] == [f"{n:012x}" for n in range(450)]


@pytest.mark.skipif(
    "HERMES_CELERY_TEST_REDIS_URL" in os.environ, reason="tests the embedded server's configuration"
)
def test_a_job_on_the_embedded_server_is_stored_as_a_listpack(valkey: Database) -> None:
    key = valkey.keys.job(Jobs(valkey).add(a_job(prompt="x" * 1_500)).id)
    assert valkey.call("OBJECT", "ENCODING", key) == "listpack"


def test_a_new_job_stores_no_empty_and_no_duplicate_field(store: Store) -> None:
    key = store.database.keys.job(store.jobs.add(a_job()).id)
    expected = {"spec", "revision", "state", "next_ms", "completed"}
    assert set(store.database.call("HKEYS", key)) == expected


def test_bytes_that_are_not_utf_8_are_read_with_replacement_characters(
    valkey: Database, clock: HandClock
) -> None:
    store = Store(valkey, clock)
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="n"))
    valkey.call("HSET", valkey.keys.job(job.id), "last_error", b"caf\xe9 \xff")
    assert store.cron.show(job.id).last_error == "caf\ufffd \ufffd"
