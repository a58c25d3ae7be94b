"""The import of a Hermes home: jobs are imported completely or refused, and times are kept.

A second import changes nothing.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from hermes_celery.core.job import Job, JobState
from hermes_celery.core.planning import DueJob, plan
from hermes_celery.errors import HermesCeleryError, ImportFault
from hermes_celery.instant import to_ms
from hermes_celery.interop.hermes.home import import_jobs, job_from_record, read_records
from hermes_celery.store import WRITES, Database
from tests.support import DATA, NOON, HandClock, Store, cases

HOME = DATA / "hermes-home"


@pytest.fixture
def store() -> Store:
    """Return a store on a fake server; importing is the same on a real one."""
    return Store(
        Database(fakeredis.FakeRedis(decode_responses=True)),
        HandClock(datetime.fromisoformat("2026-11-23T05:44:00+01:00")),
    )


def test_a_real_home_is_imported_completely(store: Store) -> None:
    report = import_jobs(store.cron, HOME, timezone="Europe/Berlin")
    assert (len(report.imported), report.kept, report.refused) == (10, [], [])
    stored = {job.id: job for job in store.cron.all_jobs()}
    for record in json.loads((HOME / "cron" / "jobs.json").read_text())["jobs"]:
        job = stored[record["id"]].as_json()
        for name in (
            "id", "name", "prompt", "skills", "script", "no_agent", "schedule_display", "repeat",
            "enabled", "state", "paused_reason", "deliver", "context_from", "model", "provider",
            "enabled_toolsets", "workdir",
        ):  # fmt: skip
            assert job[name] == record[name], (record["name"], name)
        for name in ("next_run_at", "created_at", "paused_at"):
            assert _ms(job[name]) == _ms(record[name]), (record["name"], name)
        assert (job["origin"] or {}) == (record["origin"] or {})
        assert job["schedule"]["kind"] == record["schedule"]["kind"]


def test_importing_twice_changes_nothing(store: Store) -> None:
    import_jobs(store.cron, HOME, timezone="Europe/Berlin")
    store.cron.pause("heartbeat")
    before = list(store.cron.all_jobs())
    report = import_jobs(store.cron, HOME, timezone="Europe/Berlin")
    assert (report.imported, len(report.kept), report.refused) == ([], 10, [])
    assert list(store.cron.all_jobs()) == before


def test_the_first_of_two_records_with_one_id_is_imported(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "jobs.json"
    records = [{**_RECORD, "name": name} for name in ("first", "second")]
    file.write_text(json.dumps({"jobs": [*records, {**_RECORD, "id": "bbbbbbbbbbbb"}]}))
    report = import_jobs(store.cron, file, timezone="UTC")
    assert report.imported == ["aaaaaaaaaaaa first", "bbbbbbbbbbbb n"]
    assert report.kept == ["aaaaaaaaaaaa second"]
    assert store.cron.show("aaaaaaaaaaaa").name == "first"


def test_more_records_than_one_round_trip_holds_are_imported(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "jobs.json"
    records = [{**_RECORD, "id": f"{number:012x}"} for number in range(WRITES + 2)]
    file.write_text(json.dumps([*records[: WRITES - 1], {**_RECORD, "id": "x"}, *records]))
    report = import_jobs(store.cron, file, timezone="UTC")
    assert [label.split()[0] for label in report.imported] == [record["id"] for record in records]
    assert (len(report.kept), len(report.refused)) == (WRITES - 1, 1)
    assert store.jobs.count() == WRITES + 2


def test_a_job_that_the_server_refuses_stops_no_other(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "jobs.json"
    store.database.call("SET", store.database.keys.job("aaaaaaaaaaaa"), "not a hash")
    file.write_text(json.dumps([_RECORD, {**_RECORD, "id": "bbbbbbbbbbbb"}]))
    report = import_jobs(store.cron, file, timezone="UTC")
    assert ([r.job for r in report.refused], report.imported) == (
        ["aaaaaaaaaaaa n"], ["bbbbbbbbbbbb n"],
    )  # fmt: skip


def test_a_home_from_another_zone_is_noted(store: Store) -> None:
    report = import_jobs(store.cron, HOME, timezone="America/New_York")
    (note,) = report.notes
    assert "' is now read in America/New_York (UTC-05:00)" in note
    assert "in its own zone (UTC+01:00)" in note
    again = import_jobs(store.cron, HOME, timezone="America/New_York")
    assert (again.imported, again.notes) == ([], [])


def test_a_home_from_the_same_zone_has_no_note(store: Store) -> None:
    report = import_jobs(store.cron, HOME, timezone="Europe/Berlin")
    assert report.imported
    assert report.notes == []


def test_an_interval_keeps_the_grid_of_hermes(store: Store) -> None:
    import_jobs(store.cron, HOME, timezone="Europe/Berlin")
    heartbeat = store.cron.show("heartbeat")
    planned = to_ms(datetime.fromisoformat("2026-11-23T05:44:53.102433+01:00"))
    schedule = heartbeat.spec.compiled()
    assert schedule.next_after_ms(planned - 1) == planned
    assert schedule.next_after_ms(planned) == planned + 60_000


_RECORD = {
    "id": "aaaaaaaaaaaa",
    "name": "n",
    "prompt": "x",
    "schedule": {"kind": "interval", "minutes": 60},
    "enabled": True,
    "state": "scheduled",
}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"id": "../evil"}, "not 12 hex digits"),
        ({"schedule": None}, "not a stored schedule"),
        ({"schedule": {"kind": "cron", "expr": "60 * * * *"}}, "minute"),
        ({"prompt": ""}, "nothing to run"),
        ({"no_agent": True}, "requires a script"),
        ({"script": "/etc/passwd"}, "must be relative"),
        ({"skills": 5}, "cannot be read"),
        ({"workdir": "rel"}, "absolute path"),
        ({"schedule": {"kind": "once", "run_at": "2026-01-01T00:00:00Z"}}, "has passed"),
    ],
    ids=str,
)
def test_an_invalid_record_is_reported_and_the_others_are_imported(
    store: Store, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    file = tmp_path / "jobs.json"
    good = {**_RECORD, "id": "bbbbbbbbbbbb"}
    file.write_text(json.dumps({"jobs": [{**_RECORD, **changes}, good]}))
    report = import_jobs(store.cron, file, timezone="UTC")
    (refused,) = report.refused
    assert why in refused.reason
    assert [job.id for job in store.cron.all_jobs()] == ["bbbbbbbbbbbb"]


_FILES = {
    "canonical": json.dumps({"jobs": [{"id": "k1"}]}),
    "bare list": json.dumps([{"id": "k1"}]),
    "utf-8 BOM": "\ufeff" + json.dumps({"jobs": [{"id": "k1"}]}),
    "empty file": "",
    "null": "null",
    "string": '"x"',
    "dict without jobs": "{}",
}


@pytest.mark.parametrize("case", cases("store.load"), ids=lambda c: c["input"]["file"])
def test_a_file_is_read_or_refused_as_in_hermes(case: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "jobs.json"
    if case["input"]["file"] == "missing":
        # Hermes starts without jobs if the file is missing; an import must name a file.
        with pytest.raises(ImportFault, match="does not exist"):
            read_records(file)
        return
    file.write_text(_FILES[case["input"]["file"]], encoding="utf-8")
    if "ids" in case["expected"]:
        assert [record["id"] for record in read_records(file)] == case["expected"]["ids"]
        return
    with pytest.raises(ImportFault) as error:
        read_records(file)
    assert case["expected"]["error"].partition(": ")[2] in str(error.value).replace(
        "Expecting value at line 1 column 1", "Expecting value: line 1 column 1"
    )


def test_a_corrupt_file_is_refused_with_the_position(tmp_path: Path) -> None:
    file = tmp_path / "jobs.json"
    file.write_text('{"jobs": [\n  {"id": 1,,}\n]}')
    with pytest.raises(ImportFault, match=r"line 2 column 12 .*Nothing was imported"):
        read_records(file)


#: Recorded rows of Hermes' scan that an import cannot follow, or that differ on purpose.
_SCAN_DIFFERS = {
    "run_claim": "claims are kept in the store here; a claim of Hermes is not imported",
    "running_here": "an import does not know what runs in a Hermes process",
    "nullsched": "a job without a schedule is refused at import instead of running for ever",
    "legacyid": "an id that is not 12 hex digits is refused",
    "catch-up": "an interval keeps its grid; Hermes restarts the grid at the late run",
}


@pytest.mark.parametrize(
    "case", cases("due.scan"), ids=lambda c: json.dumps(c["input"]["jobs"])[:60]
)
def test_naive_and_stale_times_follow_hermes(case: dict[str, Any]) -> None:
    now = datetime.fromisoformat(case["input"]["now"])
    for record in case["input"]["jobs"]:
        if "run_claim" in record or "running_here" in case["input"] or "job_id" in record:
            continue
        if record["id"] == "nullsched":
            with pytest.raises(HermesCeleryError):
                job_from_record({**record, "id": "aaaaaaaaaaaa"}, timezone="UTC", now=now)
            continue
        expected = case["expected"]
        job = job_from_record({**record, "id": "aaaaaaaaaaaa"}, timezone="UTC", now=now)
        is_due = (
            job.state is JobState.SCHEDULED
            and job.next_run_at is not None
            and job.next_run_at <= now
        )
        assert is_due == (record["id"] in expected["due"])
        after = expected["after"].get(record["id"])
        if after is None:
            assert job.state is JobState.COMPLETED
        elif not is_due and after["enabled"]:
            assert _ms(after["next_run_at"]) == to_ms(job.next_run_at or NOON)
        elif is_due:
            _check_late_job_continues(job, now=now)


def _check_late_job_continues(job: Job, *, now: datetime) -> None:
    """Check that a late job runs once and its next instant is in the future."""
    due = DueJob(
        spec=job.spec,
        revision=1,
        next_run_ms=to_ms(job.next_run_at or now),
        completed=job.completed,
    )
    decision = plan(due, now_ms=to_ms(now))
    last = decision.steps[-1]
    assert (last.occurrence_ms <= to_ms(now), last.skip) == (True, "")
    assert last.next_run_ms is None or last.next_run_ms > to_ms(now)


def test_a_naive_time_is_local_in_the_zone_of_the_home() -> None:
    record = {**_RECORD, "next_run_at": "2026-06-22T14:30:00"}
    job = job_from_record(record, timezone="Europe/Berlin", now=NOON)
    assert job.as_json()["next_run_at"] == "2026-06-22T12:30:00+00:00"


def _ms(text: str | None) -> int | None:
    return None if text is None else to_ms(datetime.fromisoformat(text))
