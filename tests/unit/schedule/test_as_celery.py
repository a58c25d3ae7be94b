"""Celery's schedules have the same instants here as in Celery.

The reference is Celery's own `crontab`, asked for its next instant again and again in UTC. Clock
changes are handled differently here (see `test_reference`), so these tests use UTC only.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from importlib import import_module
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.schedules import BaseSchedule, crontab, schedule, solar
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_celery.core.schedule_text import text_of, zone_name
from hermes_celery.errors import JobError
from hermes_celery.schedule import parse
from hermes_celery.schedule.explaining import explain

#: Imported by name, since pytz has no types. Many projects give Celery a zone of pytz.
pytz = import_module("pytz")
APP = Celery("celery-schedules", set_as_current=False)
APP.conf.timezone = "UTC"
NOON = datetime(2026, 6, 22, 12, tzinfo=UTC)


def a_crontab(**fields: Any) -> crontab:
    return crontab(app=APP, **fields)


def celerys_next(given: crontab, after: datetime, *, count: int) -> list[datetime]:
    """Return Celery's own instants: those of a beat that runs the entry at each of them."""
    found = []
    for _ in range(count):
        given.nowfun = lambda at=after: at
        after += given.remaining_estimate(after)
        found.append(after)
    given.nowfun = None
    return found


def our_next(text: str, after: datetime, *, count: int) -> list[datetime]:
    schedule, found = parse(text), []
    for _ in range(count):
        upcoming = schedule.next_after(after)
        assert upcoming is not None
        after = upcoming
        found.append(after)
    return found


def items(low: int, high: int, names: tuple[str, ...] = ()) -> st.SearchStrategy[str]:
    number = st.integers(low, high).map(str)
    ranges = st.tuples(number, number).map("-".join)
    step = st.integers(1, high + 3).map(str)
    plain = st.one_of(
        st.just("*"),
        number,
        ranges,
        st.tuples(ranges, step).map("/".join),
        step.map(lambda text: f"*/{text}"),
        *([st.sampled_from(names)] if names else []),
    )
    return st.lists(plain, min_size=1, max_size=3).map(",".join)


def fields(low: int, high: int, names: tuple[str, ...] = ()) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.just("*"),
        items(low, high, names),
        st.integers(low, high),
        st.sets(st.integers(low, high), min_size=1, max_size=5),
        st.lists(st.integers(low, high), min_size=1, max_size=5),
    )


#: From 2020 to 2032, any second.
SECONDS = st.integers(1_577_836_800, 1_956_528_000).map(lambda at: datetime.fromtimestamp(at, UTC))
CRONTABS = st.fixed_dictionaries(
    {
        "minute": fields(0, 59),
        "hour": fields(0, 23),
        "day_of_month": fields(1, 28),
        "month_of_year": fields(1, 12, ("sept", "january", "jun")),
        "day_of_week": fields(0, 6, ("sun", "tues", "thur", "fri-mon", "saturday")),
    }
)


@settings(max_examples=300, deadline=None)
@given(CRONTABS, SECONDS)
def test_a_crontab_has_the_instants_that_celery_gives_it(
    fields: dict[str, Any], after: datetime
) -> None:
    given = a_crontab(**fields)
    text = text_of(given)
    assert our_next(text, after, count=4) == celerys_next(given, after, count=4), text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"minute": 0, "hour": "22-3"}, "0 0-3,22,23 * * *"),
        ({"minute": 0, "hour": "20-6/2"}, "0 0,2,4,6,20,22 * * *"),
        ({"minute": range(0, 60, 20)}, "0,20,40 * * * *"),
        ({"minute": 0, "hour": 0, "day_of_month": 1, "month_of_year": "sept"}, "0 0 1 9 *"),
        ({"minute": 0, "hour": 9, "day_of_week": "tues,thur"}, "0 9 * * 2,4"),
        ({"minute": 0, "hour": 9, "day_of_week": "sun"}, "0 9 * * 0"),
        ({"minute": "1, 5", "hour": {3, 1}}, "1,5 1,3 * * *"),
        ({"minute": "0-59/7"}, "0-59/7 * * * *"),
        # Day and weekday must both match, as in Celery; all days of a month are no limit.
        (
            {"minute": 0, "hour": 22, "day_of_month": "1-7", "day_of_week": "sat"},
            "0 22 1-7 * +6",
        ),
        ({"minute": 0, "hour": 0, "day_of_month": "*/2", "day_of_week": "mon"}, "0 0 */2 * 1"),
        ({"minute": 0, "hour": 0, "day_of_month": "1-31", "day_of_week": "1-5"}, "0 0 * * 1-5"),
        ({"minute": 0, "hour": 0, "day_of_month": 15, "day_of_week": "0-6"}, "0 0 15 * *"),
        # A star stays a star, and nothing else becomes one: it decides how clock changes count.
        ({"minute": "*/15"}, "*/15 * * * *"),
        ({"minute": 0, "hour": "*/7,22-3"}, "0 */7,1-3,22,23 * * *"),
        ({"minute": 0, "hour": "0-23"}, "0 0-23 * * *"),
        ({"minute": 0, "hour": range(24)}, "0 0-23 * * *"),
    ],
)
def test_a_crontab_becomes_a_text(fields: dict[str, Any], text: str) -> None:
    assert text_of(a_crontab(**fields)) == text
    parse(text)


def test_a_text_with_both_day_fields_required_is_invalid_for_0_1_0() -> None:
    # 0.1.0 reads the same fields, but no field of it may have the sign `+`.
    with pytest.raises(ValueError, match="is not a value"):
        parse("0 22 +1-7 * sat")
    schedule = parse("0 22 1-7 * +sat")
    assert explain(schedule).words == "At 22:00, on day 1 to 7 of the month if that is Saturday"
    with pytest.raises(ValueError, match="no weekday after it"):
        parse("0 22 1-7 * +")


def test_a_crontabs_zone_is_that_of_its_nowfun() -> None:
    for zone in (ZoneInfo("Asia/Tokyo"), pytz.timezone("Asia/Tokyo")):
        given = a_crontab(minute=0, hour=9, nowfun=lambda zone=zone: datetime.now(zone))
        assert text_of(given) == "CRON_TZ=Asia/Tokyo 0 9 * * *"
        assert parse(text_of(given)).next_after(NOON) == datetime(2026, 6, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("period", "text"),
    [
        (30, "every 30s"),
        (0.5, "every 0.5s"),
        (90.5, "every 1m30.5s"),
        (60 / 7, "every 8.571s"),
        (timedelta(days=2), "every 2d"),
        (schedule(90.5, app=APP), "every 1m30.5s"),
        (schedule(20, relative=True, app=APP), "every 20s"),
        (schedule(60, relative=True, app=APP), "* * * * *"),
        (schedule(3600, relative=True, app=APP), "0 * * * *"),
        (schedule(timedelta(hours=6), relative=True, app=APP), "0 */6 * * *"),
        (schedule(timedelta(days=1), relative=True, app=APP), "0 0 * * *"),
        ("every 5m", "every 5m"),
    ],
)
def test_an_interval_becomes_a_text(period: Any, text: str) -> None:
    assert text_of(period) == text
    parse(text)


@pytest.mark.parametrize("seconds", [60, 300, 1200, 3600, 6 * 3600, 86_400])
def test_a_relative_interval_keeps_celerys_times(seconds: int) -> None:
    given = schedule(seconds, relative=True, app=APP)
    assert our_next(text_of(given), NOON, count=5) == celerys_next(given, NOON, count=5)


class OwnDecision(crontab):  # type: ignore[misc]  # Celery carries no types
    """A user's schedule class with its own `is_due`."""

    def is_due(self, last_run_at: datetime) -> Any:
        """Override the method; a schedule with its own decision cannot become a text."""
        return super().is_due(last_run_at)


class PlainSubclass(crontab):  # type: ignore[misc]  # Celery carries no types
    """A subclass of crontab that overrides nothing."""


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (OwnDecision(app=APP), "an OwnDecision decides with its own is_due"),
        (solar.__new__(solar), "follows the sun"),
        (BaseSchedule(app=APP), "is not a schedule; use a text, a crontab, a timedelta or seconds"),
        (None, "None is not a schedule"),
        (True, "True is not a schedule"),
        (float("nan"), "nan is not a schedule"),
        (0.01, "0.01 s is too short; the shortest is 0.1 s"),
        (0, "0 s is too short"),
        (timedelta.max, "s is too long; the longest is a century"),
        (schedule(5400, relative=True, app=APP), "relative=True does not fit the wall clock"),
        (a_crontab(nowfun=datetime.now), "returns a time without a zone"),
        (a_crontab(nowfun=lambda: 1 / 0), "raised ZeroDivisionError"),
        (a_crontab(minute=[1.5]), "the minute of its crontab is .1.5.; give whole numbers"),
    ],
)
def test_an_unsupported_schedule_is_refused_with_an_alternative(given: Any, why: str) -> None:
    with pytest.raises(JobError, match=why):
        text_of(given)


def test_a_subclass_that_overrides_nothing_counts_as_its_base() -> None:
    assert text_of(PlainSubclass(minute=5, app=APP)) == "5 * * * *"


@pytest.mark.parametrize(
    ("zone", "name"),
    [
        (timezone(timedelta(hours=8)), "+08:00"),
        (timezone(-timedelta(hours=3, minutes=30)), "-03:30"),
        (UTC, "UTC"),
        (ZoneInfo("Europe/Berlin"), "Europe/Berlin"),
        (pytz.timezone("America/New_York"), "America/New_York"),
        (pytz.FixedOffset(480), "+08:00"),
        ("Asia/Tokyo", "Asia/Tokyo"),
    ],
)
def test_a_zone_is_stored_by_a_name_that_other_machines_know(zone: tzinfo | str, name: str) -> None:
    assert zone_name(zone) == name
    parse("0 9 * * *", timezone=name)


class Nameless(tzinfo):
    """A user's time zone whose offset depends on the month."""

    def utcoffset(self, at: datetime | None) -> timedelta | None:
        """Return None without an instant, otherwise an offset by the month."""
        return None if at is None else timedelta(hours=at.month % 2)

    def tzname(self, at: datetime | None) -> str:
        """Return a name that no zone database has."""
        return "NAMELESS"

    def dst(self, at: datetime | None) -> timedelta | None:
        """Return None: unknown."""
        return None


def test_a_zone_without_a_name_is_refused() -> None:
    with pytest.raises(JobError, match="has no name that other machines know"):
        zone_name(Nameless())
