"""A record that cannot be read is one incident, which ends when nobody meets it any more."""

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


def test_however_often_it_is_met_it_is_one_incident(
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


def test_another_key_is_another_incident(host: DeliveringHost, broken: BrokenRecords) -> None:
    for key in ("{x}:due", "{x}:switch"):
        broken("", key, "is a string")
    assert {one.text for one in open_ones(host)} == {
        "{x}:due is a string → hermes-celery fsck --repair",
        "{x}:switch is a string → hermes-celery fsck --repair",
    }


def test_it_ends_when_nobody_met_it_for_five_minutes(
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


def test_the_next_leader_ends_what_the_last_one_met(
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


def test_a_trouble_while_it_is_told_is_nobodys_who_met_it(
    host: DeliveringHost, broken: BrokenRecords
) -> None:
    database = host.store.database
    database.call("SET", database.keys.incidents, "x")
    broken("", "{x}:due", "is a string")
    database.call("DEL", database.keys.incidents)
    broken("", "{x}:due", "is a string")
    assert len(open_ones(host)) == 1


@pytest.mark.parametrize("key", ['{x}:"\\', "{x}:\udcff", "{x}:\n", "{x}:" + "y" * 5000])
def test_its_id_is_plain_whatever_the_key_holds(
    host: DeliveringHost, broken: BrokenRecords, key: str
) -> None:
    broken("", key, "is a string")
    (incident,) = open_ones(host)
    assert incident.id.isascii()
    assert not set(incident.id) & set('"\\\n')
    assert len(incident.id) < 400
