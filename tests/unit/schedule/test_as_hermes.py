"""Schedules in Hermes' stored form are read and written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hermes_celery.schedule import ScheduleError, ScheduleKind, from_hermes, parse

NOW = datetime(2026, 6, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    ["0 9 * * *", "every 2h", "90s", "in 45m", "2027-03-28T14:00", "weekdays at 9am", "@daily"],
)
def test_a_schedule_in_hermes_form_reads_back_as_the_same(text: str) -> None:
    schedule = parse(text, timezone="Europe/Berlin", now=NOW)

    again = from_hermes(schedule.to_hermes(), timezone="Europe/Berlin", now=NOW)

    assert again == schedule


def test_a_stored_interval_is_in_minutes() -> None:
    schedule = from_hermes({"kind": "interval", "minutes": 90}, now=NOW)

    assert schedule.kind is ScheduleKind.INTERVAL
    assert schedule.display == "every 90m"
    assert schedule.next_after(NOW) == NOW + timedelta(minutes=90)


def test_a_stored_display_is_kept() -> None:
    stored = {"kind": "cron", "expr": "0 9 * * 1", "display": "every monday 9am"}

    assert from_hermes(stored).display == "every monday 9am"


def test_a_one_shot_keeps_its_instant_and_its_zone() -> None:
    stored = {"kind": "once", "run_at": "2026-03-08T04:30:00-04:00", "display": "once in 2h"}

    schedule = from_hermes(stored, timezone="America/Toronto")

    assert schedule.to_hermes() == stored
    assert schedule.latest_until(NOW) == datetime(2026, 3, 8, 8, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "stored",
    [
        None,
        {},
        [],
        "0 9 * * *",
        {"kind": "cron"},
        {"kind": "cron", "expr": "garbage"},
        {"kind": "cron", "expr": 5},
        {"kind": "cron", "expr": "every 2h"},
        {"kind": "cron", "expr": "0 9 * * *", "display": 7},
        {"kind": "once"},
        {"kind": "once", "run_at": None},
        {"kind": "once", "run_at": "soon"},
        {"kind": "once", "run_at": "0 9 * * *"},
        {"kind": "interval"},
        {"kind": "interval", "minutes": 0},
        {"kind": "interval", "minutes": -5},
        {"kind": "interval", "minutes": 2.5},
        {"kind": "interval", "minutes": float("nan")},
        {"kind": "interval", "minutes": float("inf")},
        {"kind": "interval", "minutes": True},
        {"kind": "interval", "minutes": "30"},
        {"kind": "interval", "minutes": 10**12},
        {"kind": "webhook", "expr": "0 9 * * *"},
        {"kind": ["cron"], "expr": "0 9 * * *"},
    ],
    ids=repr,
)
def test_an_invalid_stored_schedule_is_refused(stored: Any) -> None:
    with pytest.raises(ScheduleError):
        from_hermes(stored, now=NOW)
