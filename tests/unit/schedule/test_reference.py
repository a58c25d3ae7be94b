"""Schedules agree with a slow and obvious reference: a clock that is read every minute.

The reference follows Debian's cron(8) word by word. A wildcard job ("*" in the hour or minute) is
"run based on the new time immediately": in each minute in which the wall clock matches. For all
other jobs, "if the time has moved forwards, those jobs which would have run in the time that was
skipped will be run soon after the change", and "if the time has moved backwards, those jobs that
fall into the repeated time will not be re-run". So in each minute the reference checks all
wall-clock minutes that are read or skipped for the first time. A day that a zone leaves out
completely does not count.

The reference uses no tables, masks or transitions; it asks `zoneinfo` for every minute.
"""

from __future__ import annotations

import calendar
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from zoneinfo import TZPATH, ZoneInfo, available_timezones

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from hermes_celery.schedule import ScheduleError, parse
from hermes_celery.schedule.time_zones import find_zone

ZONES = sorted(available_timezones() - {"localtime"})


def _same_data(zone: str) -> bytes:
    files = (Path(folder, zone) for folder in TZPATH)
    return next((file.read_bytes() for file in files if file.is_file()), zone.encode())


#: One name per distinct zone, for the tests that go through all zones.
DISTINCT = sorted({_same_data(zone): zone for zone in ZONES}.values())
#: Zones with unusual clock changes, tested in every run.
ODD_CHANGES = [
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),  # half an hour
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),
    ("Pacific/Chatham", datetime(2026, 9, 26, 14, tzinfo=UTC)),  # +12:45
    ("Africa/Cairo", datetime(2026, 4, 23, 22, tzinfo=UTC)),  # midnight is skipped
    ("America/Havana", datetime(2026, 3, 8, 5, tzinfo=UTC)),
    ("America/Nuuk", datetime(2026, 3, 29, 1, tzinfo=UTC)),  # the gap ends at midnight
    ("America/Sao_Paulo", datetime(2018, 2, 18, 2, tzinfo=UTC)),  # midnight comes late
    ("Antarctica/Troll", datetime(2026, 3, 29, 1, tzinfo=UTC)),  # two hours
    ("Antarctica/Vostok", datetime(1994, 1, 31, 17, tzinfo=UTC)),  # seven hours back
    ("Antarctica/Vostok", datetime(1994, 11, 1, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC)),  # 2011-12-30 does not exist
    ("Pacific/Kwajalein", datetime(1993, 8, 21, 12, tzinfo=UTC)),
    ("Asia/Pyongyang", datetime(2015, 8, 14, 15, tzinfo=UTC)),  # standard time itself changes
    ("Asia/Kathmandu", datetime(1985, 12, 31, 18, 30, tzinfo=UTC)),  # by 15 minutes
    ("Africa/Casablanca", datetime(2026, 3, 22, 2, tzinfo=UTC)),  # negative summer time
    ("Europe/Dublin", datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ("America/Juneau", datetime(1983, 10, 30, 9, tzinfo=UTC)),  # two hours at once
]


class Text(NamedTuple):
    """A cron field and the values that it means."""

    text: str
    values: frozenset[int]


def _single(top: int) -> st.SearchStrategy[Text]:
    return st.integers(0, top).map(lambda value: Text(str(value), frozenset({value})))


def _list(top: int) -> st.SearchStrategy[Text]:
    values = st.lists(st.integers(0, top), min_size=2, max_size=4, unique=True)
    return values.map(lambda found: Text(",".join(map(str, found)), frozenset(found)))


def _range(top: int) -> st.SearchStrategy[Text]:
    ends = st.tuples(st.integers(0, top), st.integers(0, top)).map(sorted)
    return st.builds(
        lambda ends, step: Text(
            f"{ends[0]}-{ends[1]}/{step}", frozenset(range(ends[0], ends[1] + 1, step))
        ),
        ends,
        st.integers(1, top),
    )


def _stars(top: int) -> st.SearchStrategy[Text]:
    steps = st.integers(1, top).map(
        lambda step: Text(f"*/{step}", frozenset(range(0, top + 1, step)))
    )
    return st.just(Text("*", frozenset(range(top + 1)))) | steps


def _field(top: int) -> st.SearchStrategy[Text]:
    return _single(top) | _list(top) | _range(top) | _stars(top)


def matches(minute: Text, hour: Text, wall: datetime) -> bool:
    return wall.minute in minute.values and wall.hour in hour.values


def wildcard(minute: Text, hour: Text) -> bool:
    return minute.text.startswith("*") or hour.text.startswith("*")


def fires(minute: Text, hour: Text, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """Return every minute in [start, end] in which cron(8) would run the job."""
    # Since 1970 no clock has gone back by more than seven hours, so one day before is enough.
    begin, found = start - timedelta(days=1), []
    info = ZoneInfo(zone)
    reached = _wall(begin, info) - timedelta(minutes=1)
    days = {_wall(at, info).date() for at in _minutes(begin - timedelta(days=2), end, step=15)}
    for instant in _minutes(begin, end, step=1):
        wall = _wall(instant, info)
        if wildcard(minute, hour):
            now_due = matches(minute, hour, wall)
        else:
            newly_read = _minutes(reached + timedelta(minutes=1), wall, step=1)
            now_due = any(at.date() in days and matches(minute, hour, at) for at in newly_read)
        reached = max(reached, wall)
        if now_due and instant >= start:
            found.append(instant)
    return found


def _wall(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None)


def _minutes(start: datetime, end: datetime, *, step: int) -> Iterable[datetime]:
    while start <= end:
        yield start
        start += timedelta(minutes=step)


@cache
def changes(zone: str) -> list[datetime]:
    """Return all clock changes of a zone from 1970 to 2037, found by asking twice a day."""
    info, step, found = ZoneInfo(zone), timedelta(hours=12), []
    before = datetime(1970, 1, 1, tzinfo=UTC)
    while before.year < 2038:
        after = before + step
        if _offset(before, info) != _offset(after, info):
            found.append(_halve(before, after, info))
        before = after
    return found


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def _halve(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    old = _offset(before, zone)
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // 2
        middle = middle.replace(microsecond=0)
        if _offset(middle, zone) == old:
            before = middle
        else:
            after = middle
    return after


def whole_minutes(zone: str, change: datetime) -> bool:
    """Return whether the zone's offsets around a change are whole minutes.

    Liberia's clocks were 44 minutes and 30 seconds behind until 1972.
    """
    info = ZoneInfo(zone)
    around = (change - timedelta(days=4), change, change + timedelta(days=2))
    return not any(_offset(at, info).total_seconds() % 60 for at in around)


def check_around(minute: Text, hour: Text, zone: str, change: datetime) -> None:
    start = change.replace(second=0) - timedelta(hours=14)
    end = change.replace(second=0) + timedelta(hours=14)
    schedule = parse(f"{minute.text} {hour.text} * * *", timezone=zone)

    expected = fires(minute, hour, zone, start, end)

    assert list(schedule.between(start, end)) == expected
    # Ask at instants between the occurrences as well.
    for at in _minutes(start, end, step=23):
        following, latest = schedule.next_after(at), schedule.latest_until(at)
        assert following is not None
        assert latest is not None
        assert [following][: following <= end] == [due for due in expected if due > at][:1]
        assert [latest][: latest >= start] == [due for due in expected if due <= at][-1:]


@st.composite
def zones_and_changes(draw: st.DrawFn) -> tuple[str, datetime]:
    """Draw a zone and an instant at which its clocks change."""
    if draw(st.booleans()):
        return draw(st.sampled_from(ODD_CHANGES))
    zone = draw(st.sampled_from(ZONES))
    assume(changes(zone))
    return zone, draw(st.sampled_from(changes(zone)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(minute=_field(59), hour=_field(23), place=zones_and_changes())
def test_instants_around_clock_changes_match_the_reference(
    minute: Text, hour: Text, place: tuple[str, datetime]
) -> None:
    assume(whole_minutes(*place))
    check_around(minute, hour, *place)


SAMPLES = [
    (Text("30", frozenset({30})), Text("2", frozenset({2}))),
    (Text("0,45", frozenset({0, 45})), Text("0-3/1", frozenset({0, 1, 2, 3}))),
    (Text("*/20", frozenset({0, 20, 40})), Text("1,23", frozenset({1, 23}))),
]


@pytest.mark.parametrize(("zone", "change"), ODD_CHANGES)
@pytest.mark.parametrize("fields", SAMPLES, ids=lambda fields: " ".join(f.text for f in fields))
def test_unusual_clock_changes_match_the_reference(
    zone: str, change: datetime, fields: tuple[Text, Text]
) -> None:
    assert change in changes(zone)
    check_around(*fields, zone, change)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("zone", DISTINCT)
def test_every_clock_change_of_the_zone_matches_the_reference(zone: str) -> None:
    for change in changes(zone):
        if whole_minutes(zone, change):
            local = change.astimezone(ZoneInfo(zone))
            # The hour that the clock jumps to or repeats, and the hour before it.
            hours = frozenset({local.hour, (local.hour - 1) % 24})
            hour = Text(",".join(map(str, sorted(hours))), hours)
            check_around(Text("15", frozenset({15})), hour, zone, change)
            check_around(Text("*/30", frozenset({0, 30})), hour, zone, change)


def check_once_a_day(zone: str, change: datetime, minute_of_day: int) -> None:
    hour, minute = divmod(minute_of_day, 60)
    schedule = parse(f"{minute} {hour} * * *", timezone=zone)
    info = ZoneInfo(zone)
    around = [change + timedelta(minutes=15 * step) for step in range(-4 * 96, 4 * 96)]
    days = sorted({_wall(instant, info).date() for instant in around})[1:-1]
    opens = {day: _opens(day, info, around) for day in days}
    for day, following in pairwise(days):
        # A day's own run is the first one at or after the nominal time; if a gap ends the day, the
        # run is on the next day.
        found = schedule.between(opens[day], opens[following])
        own = [instant for instant in found if _nominal_day(instant, info, minute_of_day) == day]
        assert len(own) == 1, (zone, day, found)


def _opens(day: date, zone: ZoneInfo, around: list[datetime]) -> datetime:
    """Return the first instant of a local day, to the minute."""
    rough = next(instant for instant in around if _wall(instant, zone).date() >= day)
    back = (rough - timedelta(minutes=step) for step in range(16))
    return min(instant for instant in back if _wall(instant, zone).date() >= day)


def _nominal_day(instant: datetime, zone: ZoneInfo, minute_of_day: int) -> date:
    """Return the day to which a run at `instant` belongs.

    That is the local day itself, or the day before if a gap moved its run past midnight.
    """
    wall = _wall(instant, zone)
    if wall.hour * 60 + wall.minute >= minute_of_day:
        return wall.date()
    return wall.date() - timedelta(days=1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(place=zones_and_changes(), minute_of_day=st.integers(0, 1439))
@example(place=("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC)), minute_of_day=540)
@example(place=("America/Nuuk", datetime(2026, 3, 29, 1, tzinfo=UTC)), minute_of_day=1410)
def test_a_job_at_a_fixed_time_runs_exactly_once_per_local_day(
    place: tuple[str, datetime], minute_of_day: int
) -> None:
    assume(whole_minutes(*place))
    check_once_a_day(*place, minute_of_day)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("zone", DISTINCT)
def test_a_fixed_time_runs_once_per_local_day_around_every_clock_change(zone: str) -> None:
    for change in changes(zone):
        if whole_minutes(zone, change):
            local = change.astimezone(ZoneInfo(zone))
            minute_of_day = local.hour * 60 + local.minute
            for minutes in (-30, 0, 30):
                check_once_a_day(zone, change, (minute_of_day + minutes) % 1440)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    minute=_field(59),
    hour=_field(23),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Havana"]),
    at=st.datetimes(datetime(1970, 1, 3), datetime(2090, 1, 1)),  # noqa: DTZ001
)
def test_next_after_and_latest_until_agree(
    minute: Text, hour: Text, zone: str, at: datetime
) -> None:
    schedule = parse(f"{minute.text} {hour.text} * * *", timezone=zone)
    instant = at.replace(tzinfo=UTC)
    following, latest = schedule.next_after(instant), schedule.latest_until(instant)

    assert following is not None
    assert latest is not None
    assert latest <= instant < following
    assert schedule.latest_until(following) == following
    assert schedule.next_after(latest) == following
    assert schedule.latest_until(following - timedelta(milliseconds=1)) == latest


class Days(NamedTuple):
    """A day or weekday field, and whether it matches a date."""

    text: str
    has: Callable[[date], bool]


def _length(day: date) -> int:
    return calendar.monthrange(day.year, day.month)[1]


def _cron_weekday(day: date) -> int:
    return day.isoweekday() % 7


def _nearest(target: int, day: date) -> bool:
    """Return whether `day` is the weekday nearest to the month's day `target`."""
    if not 1 <= target <= _length(day):
        return False
    inside = [day.replace(day=number) for number in range(1, _length(day) + 1)]
    workdays = [other for other in inside if other.isoweekday() <= 5]
    # The nearest weekday stays in the month: it is the Friday before a Saturday, the Monday after a
    # Sunday, and the other way round at the ends of the month.
    return day == min(workdays, key=lambda other: abs(other.day - target))


MONTH_DAYS = st.one_of(
    st.just(Days("*", lambda day: True)),
    st.integers(2, 9).map(lambda step: Days(f"*/{step}", lambda day: (day.day - 1) % step == 0)),
    st.integers(1, 31).map(lambda number: Days(str(number), lambda day: day.day == number)),
    st.integers(1, 28).map(
        lambda low: Days(f"{low}-{low + 3}", lambda day: 0 <= day.day - low < 4)
    ),
    st.integers(1, 30).map(
        lambda back: Days(f"L-{back}", lambda day: day.day == _length(day) - back)
    ),
    st.just(Days("L", lambda day: day.day == _length(day))),
    st.just(Days("15,L", lambda day: day.day in (15, _length(day)))),
    st.integers(1, 31).map(lambda target: Days(f"{target}W", lambda day: _nearest(target, day))),
    st.just(Days("LW", lambda day: _nearest(_length(day), day))),
    st.integers(1, 30).map(
        lambda back: Days(f"L-{back}W", lambda day: _nearest(_length(day) - back, day))
    ),
    st.just(Days("1W,15W", lambda day: _nearest(1, day) or _nearest(15, day))),
)
WEEKDAY_NAMES = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
WEEK_DAYS = st.one_of(
    st.just(Days("*", lambda day: True)),
    st.integers(2, 6).map(
        lambda step: Days(f"*/{step}", lambda day: _cron_weekday(day) % step == 0)
    ),
    st.integers(0, 7).map(
        lambda number: Days(str(number), lambda day: _cron_weekday(day) == number % 7)
    ),
    st.just(Days("mon-fri", lambda day: day.isoweekday() <= 5)),
    st.just(Days("fri-mon", lambda day: day.isoweekday() in (5, 6, 7, 1))),
    st.tuples(st.integers(0, 6), st.integers(1, 5)).map(
        lambda pair: Days(
            f"{WEEKDAY_NAMES[pair[0]]}#{pair[1]}",
            lambda day: _cron_weekday(day) == pair[0] and (day.day - 1) // 7 == pair[1] - 1,
        )
    ),
    st.tuples(st.integers(0, 6), st.sampled_from(["{}L", "{}#L", "L{}"])).map(
        lambda pair: Days(
            pair[1].format(pair[0]),
            lambda day: _cron_weekday(day) == pair[0] and day.day > _length(day) - 7,
        )
    ),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(days=MONTH_DAYS, weekdays=WEEK_DAYS, year=st.integers(1971, 2095))
def test_day_fields_match_the_calendar(days: Days, weekdays: Days, year: int) -> None:
    both = days.text.startswith("*") or weekdays.text.startswith("*")
    start = datetime(year, 1, 1, 7, tzinfo=UTC)
    expected = [
        start + timedelta(days=number)
        for number in range(366 + 365)
        for day in [(start + timedelta(days=number)).date()]
        if (days.has(day) and weekdays.has(day) if both else days.has(day) or weekdays.has(day))
    ]
    text = f"0 7 {days.text} * {weekdays.text}"
    if not expected and both and _is_never(text):
        return  # such as the last workday of the month *and* a Saturday or Sunday
    schedule = parse(text)

    assert list(schedule.between(start, start + timedelta(days=730))) == expected


def _is_never(text: str) -> bool:
    """Return whether the text is refused because it can never run."""
    try:
        parse(text)
    except ScheduleError as error:
        return "can never run" in str(error)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("zone", DISTINCT)
def test_the_transition_table_of_the_zone_has_every_change(zone: str) -> None:
    table = find_zone(zone)

    assert [datetime.fromtimestamp(start, UTC) for start in table.starts[1:]][
        : len(changes(zone))
    ] == changes(zone)
    for change in changes(zone):
        for second in (-1, 0):
            instant = change + timedelta(seconds=second)
            offset = table.offset(int(instant.timestamp()))
            assert timedelta(seconds=offset) == _offset(instant, ZoneInfo(zone))
