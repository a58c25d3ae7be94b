"""Tests of incidents about unreadable records: one per record, closed when it is no longer met."""

from __future__ import annotations

from pathlib import Path

import pytest

from hermes_celery.core.incidents import Incident, Trouble, TroubleKind
from hermes_celery.delivering.broken_records import BrokenRecords
from hermes_celery.delivering.trouble_reporter import TroubleReporter
from hermes_celery.store import Database
from tests.store.delivering_host import DeliveringHost, at
from tests.support import HandClock

JOB = "a" * 12


@pytest.fixture
def host(valkey: Database, clock: HandClock, tmp_path: Path) -> DeliveringHost:
    return at(valkey, clock, tmp_path)


@pytest.fixture
def broken(host: DeliveringHost) -> BrokenRecords:
    return records(host)


def records(host: DeliveringHost) -> BrokenRecords:
    reporter = TroubleReporter(incidents=host.incidents, deliveries=host.deliveries, alerts="local")
    return BrokenRecords(reporter, host.incidents, clock=host.store.clock)


def open_ones(host: DeliveringHost) -> list[Incident]:
    return [one for one in host.incidents.open() if one.kind is TroubleKind.BROKEN]


def test_a_broken_record_met_many_times_is_one_incident(
    host: DeliveringHost, broken: BrokenRecords
) -> None:
    for _ in range(100):
        broken(JOB, "", "{x}:job:a is a string")
        host.store.clock.advance(10)
    (incident,) = open_ones(host)
    assert (incident.count, incident.job_id) == (1, JOB)
    assert incident.text == (
        f"job {JOB}: {{x}}:job:a is a string → hermes-celery remove {JOB}, or "
        "hermes-celery fsck --repair"
    )


def test_each_broken_key_has_an_incident_of_its_own(
    host: DeliveringHost, broken: BrokenRecords
) -> None:
    for key in ("{x}:due", "{x}:switch"):
        broken("", key, "is a string")
    assert {one.text for one in open_ones(host)} == {
        "{x}:due is a string → hermes-celery fsck --repair",
        "{x}:switch is a string → hermes-celery fsck --repair",
    }


def test_an_incident_ends_when_its_record_was_not_met_for_five_minutes(
    host: DeliveringHost, broken: BrokenRecords
) -> None:
    clock = host.store.clock
    for key in ("{x}:due", "{x}:switch"):
        broken("", key, "is a string")
    for _ in range(6):
        clock.advance(60)
        broken("", "{x}:due", "is a string")
        broken.end_those_over(clock.ms)
    assert ["{x}:due" in one.text for one in open_ones(host)] == [True]


def test_the_next_leader_ends_incidents_of_the_previous_leader(
    host: DeliveringHost, broken: BrokenRecords
) -> None:
    clock = host.store.clock
    broken(JOB, "", "is a string")
    other = Trouble(kind=TroubleKind.BROKEN, subject="of-another-sort", text="t")
    host.incidents.report(other, now_ms=clock.ms)
    following = records(host)
    assert following.end_those_over(clock.ms) == 0
    clock.advance(301)
    assert following.end_those_over(clock.ms) == 1
    assert [one.id for one in open_ones(host)] == ["broken-of-another-sort"]
    assert host.incidents.of_job(JOB) == []


def test_a_failed_report_raises_nothing_and_is_repeated_later(
    host: DeliveringHost, broken: BrokenRecords
) -> None:
    database = host.store.database
    database.call("SET", database.keys.incidents, "x")
    broken("", "{x}:due", "is a string")
    database.call("DEL", database.keys.incidents)
    broken("", "{x}:due", "is a string")
    assert len(open_ones(host)) == 1


@pytest.mark.parametrize("key", ['{x}:"\\', "{x}:\udcff", "{x}:\n", "{x}:" + "y" * 5000])
def test_the_incident_id_is_plain_ascii_for_any_key(
    host: DeliveringHost, broken: BrokenRecords, key: str
) -> None:
    broken("", key, "is a string")
    (incident,) = open_ones(host)
    assert incident.id.isascii()
    assert not set(incident.id) & set('"\\\n')
    assert len(incident.id) < 400
