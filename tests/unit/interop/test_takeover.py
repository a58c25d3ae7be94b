"""Entries of other schedulers become jobs, or are refused with a reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from hermes_celery.client import Client
from hermes_celery.core.policy import Overlap
from hermes_celery.errors import ImportFault
from hermes_celery.interop import django_celery_beat
from hermes_celery.interop import redbeat as from_redbeat
from hermes_celery.interop.takeover import ForeignEntry, id_of, take_over
from hermes_celery.store.redbeat import RedBeatRecord

DATA = Path(__file__).parents[2] / "data"


def redbeat_records() -> list[RedBeatRecord]:
    keys = json.loads((DATA / "redbeat/2.4.2.json").read_text(encoding="utf-8"))
    statics = keys.pop("redbeat::statics")
    return [
        RedBeatRecord(
            name=key.removeprefix("redbeat:"),
            definition=keys[key]["definition"],
            meta=keys[key]["meta"],
            is_static=key.removeprefix("redbeat:") in statics,
        )
        for key in sorted(keys.pop("redbeat::schedule"))
    ]


@pytest.fixture(scope="module")
def redbeat() -> dict[str, ForeignEntry]:
    return {entry.name: entry for entry in from_redbeat.entries_of(redbeat_records())}


@pytest.fixture(scope="module")
def django() -> dict[str, ForeignEntry]:
    found = django_celery_beat.entries_of(DATA / "django-celery-beat/2.9.0.json")
    return {entry.name: entry for entry in found}


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("nightly-report", "30 2 * * *"),
        ("office-hours", "*/15 9-17 * * 1-5"),
        ("poll", "every 1m30s"),
        ("ten-times", "every 600s"),
    ],
)
def test_a_schedule_of_redbeat_keeps_its_meaning(
    name: str, schedule: str, redbeat: dict[str, ForeignEntry]
) -> None:
    request = redbeat[name].request
    assert request is not None
    assert request.schedule.replace("mon-fri", "1-5").replace("90s", "1m30s") == schedule
    assert request.policy.overlap is Overlap.ALLOW


def test_a_task_of_redbeat_keeps_its_arguments_and_options(
    redbeat: dict[str, ForeignEntry],
) -> None:
    report, poll, dated = (
        redbeat[name].request for name in ("nightly-report", "poll", "with-a-date")
    )
    assert report is not None
    assert (report.queue, report.priority) == ("reports", 3)
    assert report.task is not None
    assert report.task.kwargs == {"kind": "daily"}
    assert poll is not None
    assert poll.task is not None
    assert poll.task.args == [1, "two"]
    assert dated is not None
    assert dated.task is not None
    assert dated.task.kwargs == {"since": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}
    assert redbeat["ran-before"].last_run_at == datetime(2026, 11, 30, 10, 20, tzinfo=UTC)
    assert not redbeat["disabled"].is_enabled


def test_a_periodic_rrule_becomes_an_interval_with_its_start_and_count(
    redbeat: dict[str, ForeignEntry],
) -> None:
    request = redbeat["ten-times"].request
    assert request is not None
    assert (request.start, request.repeat) == (datetime(2030, 1, 1, tzinfo=UTC), 10)


def test_an_unsupported_entry_of_redbeat_is_refused_with_the_reason(
    redbeat: dict[str, ForeignEntry],
) -> None:
    assert "rules by bysetpos, byweekday" in redbeat["last-friday"].refused
    assert "beat_schedule" in redbeat["static-one"].kept


@pytest.mark.parametrize(
    "definition",
    ["", "{", "[]", "null", '{"task": "x"}', '{"task": "x", "schedule": {"__type__": "moon"}}',
     '{"schedule": {"__type__": "interval", "every": 5}}',
     '{"task": "x", "schedule": {"__type__": "interval", "every": "soon"}}',
     '{"task": "x", "schedule": {"__type__": "crontab", "minute": 77}}',
     '{"task": "x", "schedule": {"__type__": "interval", "every": 5}, "args": 5}',
     '{"task": "x", "schedule": {"__type__": "crontab", "minute": "1,,2"}}',
     '{"task": "x", "schedule": {"__type__": "rrule", "freq": 4, "dtstart": 1e17}}'],
)  # fmt: skip
def test_an_invalid_definition_of_redbeat_fails_only_its_entry(definition: str) -> None:
    bad = RedBeatRecord(name="bad", definition=definition)
    (entry, good) = from_redbeat.entries_of([bad, redbeat_records()[-1]])
    assert entry.refused
    assert entry.request is None
    assert good.request is not None


def test_schedules_of_django_keep_their_meaning(django: dict[str, ForeignEntry]) -> None:
    poll, report, office = (
        django[name].request for name in ("Poll the bank", "Nightly report", "Office hours")
    )
    assert poll is not None
    assert poll.task is not None
    assert (poll.task.args, poll.task.kwargs) == ([1, "two"], {"deep": True})
    assert report is not None
    assert (report.schedule, report.timezone) == ("30 2 * * *", "Europe/Berlin")
    assert (report.queue, report.priority) == ("reports", 3)
    assert office is not None
    assert office.timezone == "America/New_York"
    assert office.task is not None
    assert office.task.options == {"expires": 600, "headers": {"tenant": "a"}}


def test_bounds_and_switches_of_django_keep_their_meaning(django: dict[str, ForeignEntry]) -> None:
    assert not django["Disabled"].is_enabled
    once, twice_never = django["Once"].request, django["Once at an interval"].request
    assert once is not None
    assert once.schedule == "2035-01-02T03:04:00+00:00"
    assert once.repeat is None
    assert twice_never is not None
    assert twice_never.repeat == 1
    begins, ends = django["From a start"].request, django["Until it expires"].request
    assert begins is not None
    assert begins.start == datetime(2035, 1, 1, tzinfo=UTC)
    assert ends is not None
    assert ends.end == datetime(2035, 1, 1, tzinfo=UTC)
    routed = django["Through an exchange"].request
    assert routed is not None
    assert routed.task is not None
    assert routed.task.options == {"exchange": "jobs", "routing_key": "jobs.fast"}
    assert django["Ran before"].last_run_at == datetime(2026, 11, 30, 10, 20, tzinfo=UTC)
    assert "schedule is solar" in django["Sunrise"].refused


@pytest.mark.parametrize("text", ["", "{}", "[", "5"])
def test_a_file_that_is_not_a_dump_is_refused_with_the_dump_command(
    text: str, tmp_path: Path
) -> None:
    file = tmp_path / "f.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ImportFault, match="dumpdata django_celery_beat"):
        django_celery_beat.entries_of(file)
    with pytest.raises(ImportFault, match="dumpdata django_celery_beat"):
        django_celery_beat.entries_of(tmp_path / "none.json")


def dump(tmp_path: Path, **fields: object) -> Path:
    """Write a dump of two tasks of Django and their schedules; `fields` change the first task."""
    good = {"name": "good", "task": "shop.x", "interval": 1, "args": "[]", "kwargs": "{}"}
    pk = fields.pop("pk", 1)
    records = [
        {"model": "django_celery_beat.intervalschedule", "pk": 1,
         "fields": {"every": 5, "period": "seconds"}},
        {"model": "django_celery_beat.crontabschedule", "pk": 1, "fields": {"minute": "1,,2"}},
        {"model": "django_celery_beat.periodictask", "pk": pk,
         "fields": {**good, "name": "bad", **fields}},
        {"model": "django_celery_beat.periodictask", "pk": 2, "fields": good},
    ]  # fmt: skip
    file = tmp_path / "beat.json"
    file.write_text(json.dumps(records), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"interval": None, "crontab": 1}, "ParseException"),
        ({"pk": [1, 2]}, "its pk [1, 2] is neither a number nor a text"),
        ({"pk": {"a": 1}}, "neither a number nor a text"),
        ({"interval": ["every", 5]}, "its interval ['every', 5] is not in the file"),
    ],
)
def test_an_invalid_task_of_django_fails_only_its_entry(
    fields: dict[str, object], why: str, tmp_path: Path
) -> None:
    bad, good = django_celery_beat.entries_of(dump(tmp_path, **fields))
    assert (bad.name, bad.request) == ("bad", None)
    assert why in bad.refused
    assert good.request is not None


def test_an_out_of_range_last_run_fails_only_its_entry(tmp_path: Path) -> None:
    entries = django_celery_beat.entries_of(dump(tmp_path, last_run_at="0001-01-01T00:00:00+14:00"))
    jobs = SimpleNamespace(stored=lambda ids: set())
    cron = cast(Client, SimpleNamespace(now=datetime(2026, 1, 1, tzinfo=UTC), jobs=jobs))
    report = take_over(cron, entries, source="Django", timezone="UTC", dry_run=True)
    assert [line.name for line in report.imported] == ["good"]
    ((name, text),) = [(line.name, line.text) for line in report.refused]
    assert name == "bad"
    assert text.startswith("it cannot be read: ValueError: ")


def test_a_too_deeply_nested_file_is_refused_with_the_dump_command(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    file.write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(ImportFault, match=r"nested too deeply.*dumpdata django_celery_beat"):
        django_celery_beat.entries_of(file)


def test_one_name_in_two_schedulers_becomes_two_jobs() -> None:
    assert id_of("RedBeat", "x") != id_of("django-celery-beat", "x")
