"""Bounds of a schedule: start and end, exclusions and jitter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_celery.schedule import Bounds, ScheduleError, parse

NOW = datetime(2026, 12, 20, 12, tzinfo=UTC)
WEEKS = NOW + timedelta(days=28)


def test_start_and_end_are_included() -> None:
    start, end = datetime(2026, 12, 22, 9, tzinfo=UTC), datetime(2026, 12, 24, 9, tzinfo=UTC)
    schedule = parse("0 9 * * *", bounds=Bounds.of(start=start, end=end))

    assert [instant.day for instant in schedule.between(NOW, WEEKS)] == [22, 23, 24]
    assert schedule.next_after(end) is None
    assert schedule.latest_until(WEEKS) == end
    assert schedule.latest_until(start) == start
    assert schedule.latest_until(start - timedelta(seconds=1)) is None


def test_a_schedule_may_have_one_bound_only() -> None:
    moment = datetime(2026, 12, 22, tzinfo=UTC)

    assert parse("@daily", bounds=Bounds.of(start=moment)).next_after(NOW) == moment
    assert parse("@daily", bounds=Bounds.of(end=moment)).next_after(moment) is None


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(ScheduleError, match="is later than the end"):
        parse("@daily", bounds=Bounds.of(start=WEEKS, end=NOW))


def test_days_can_be_excluded_by_expression_and_by_date() -> None:
    schedule = parse(
        "0 9 * * *",
        timezone="Europe/Berlin",
        bounds=Bounds.of(exclude=["* * 24-26 12 *", "2026-12-22", "2026-12-31..2027-01-13"]),
    )

    assert [instant.day for instant in schedule.between(NOW, WEEKS)] == [
        *(21, 23, 27, 28, 29, 30),
        *(14, 15, 16, 17),
    ]


def test_an_exclusion_is_local_time_in_the_schedules_zone() -> None:
    # 23:30 UTC on the 23rd is half past eight on the 24th in Tokyo.
    schedule = parse("30 8 * * *", timezone="Asia/Tokyo", bounds=Bounds.of(exclude=["2026-12-24"]))

    found = schedule.between(NOW, datetime(2026, 12, 26, tzinfo=UTC))

    assert [instant.day for instant in found] == [20, 21, 22, 24, 25]


def test_hours_can_be_excluded() -> None:
    schedule = parse("*/30 * * * *", bounds=Bounds.of(exclude=["* 0-6,20-23 * * *", "0 12 * * *"]))

    found = schedule.between(NOW, NOW + timedelta(hours=24))

    assert [f"{instant:%H:%M}" for instant in found] == [
        *("12:30", *(f"{hour}:{minute}" for hour in range(13, 20) for minute in ("00", "30"))),
        *(f"{hour:02}:{minute}" for hour in range(7, 12) for minute in ("00", "30")),
    ]


def test_an_iso_time_excludes_its_minute() -> None:
    schedule = parse("* * * * * */20", bounds=Bounds.of(exclude=["2026-12-20T12:01"]))

    found = schedule.between(NOW, NOW + timedelta(minutes=2))

    assert [f"{instant:%M:%S}" for instant in found] == ["00:00", "00:20", "00:40", "02:00"]


def test_exclusions_also_hold_for_latest_until() -> None:
    schedule = parse(
        "0 * * * *", timezone="Europe/Berlin", bounds=Bounds.of(exclude=["* * 24-26 12 *"])
    )
    forwards = schedule.between(NOW, WEEKS)
    backwards, instant = [], schedule.latest_until(WEEKS)
    while instant is not None and instant >= NOW:
        backwards.append(instant)
        instant = schedule.latest_until(instant - timedelta(milliseconds=1))

    assert tuple(reversed(backwards)) == forwards
    assert len(forwards) == 28 * 24 + 1 - 3 * 24


@pytest.mark.parametrize(
    ("midnight", "first"),
    [
        ("2026-10-25T00:00:00+02:00", "2026-10-25T03:30:00+01:00"),
        ("2027-03-28T00:00:00+01:00", "2027-03-28T03:30:00+02:00"),
    ],
)
def test_an_exclusion_crosses_a_clock_change(midnight: str, first: str) -> None:
    schedule = parse(
        "30 * * * *", timezone="Europe/Berlin", bounds=Bounds.of(exclude=["* 0-2 * * *"])
    )
    instant = datetime.fromisoformat(first)

    assert schedule.next_after(datetime.fromisoformat(midnight)) == instant
    assert schedule.latest_until(instant - timedelta(minutes=1)) == datetime.fromisoformat(
        midnight
    ) - timedelta(minutes=30)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("christmas", "is not an exclusion"),
        ("0 0 24 12 * 0", "is not an exclusion"),
        ("* * 24-66 12 *", "day 66 is outside 1-31"),
        ("2026-12-24..easter", "is not a span of dates"),
        ("2026-12-24..2026-12-20", "ends before it begins"),
        ("2026-02-30", "is not a real time"),
    ],
)
def test_an_invalid_exclusion_is_refused_with_the_reason(text: str, fault: str) -> None:
    with pytest.raises(ScheduleError, match=fault):
        parse("@daily", bounds=Bounds.of(exclude=[text]))


@pytest.mark.parametrize("text", ["0 9 * * *", "0 9 * * 1-5", "* * * * * *"])
def test_an_exclusion_that_leaves_nothing_is_refused(text: str) -> None:
    with pytest.raises(ScheduleError, match="excludes all"):
        parse(text, bounds=Bounds.of(exclude=["* 9 * * *", "* 0-8,10-23 * * *"]))


def test_jitter_is_fixed_for_a_job_and_differs_between_jobs() -> None:
    first = parse("0 9 * * *", spread="job-a", bounds=Bounds.of(jitter_seconds=600)).between(
        NOW, WEEKS
    )
    again = parse("0 9 * * *", spread="job-a", bounds=Bounds.of(jitter_seconds=600)).between(
        NOW, WEEKS
    )
    other = parse("0 9 * * *", spread="job-b", bounds=Bounds.of(jitter_seconds=600)).between(
        NOW, WEEKS
    )

    assert first == again
    assert first != other
    delays = [instant.minute * 60 + instant.second for instant in first]
    assert max(delays) <= 600
    assert len(set(delays)) > len(delays) // 2
    # This value must stay the same on every machine and in every version.
    assert first[0] == datetime(2026, 12, 21, 9, 4, 9, tzinfo=UTC)


def test_jitter_never_delays_past_the_end() -> None:
    end = datetime(2026, 12, 24, 9, 1, tzinfo=UTC)

    for job in map(str, range(30)):
        schedule = parse("0 9 * * *", spread=job, bounds=Bounds.of(jitter_seconds=600, end=end))
        assert len(schedule.between(NOW, WEEKS)) == 4
        assert schedule.latest_until(WEEKS) <= end  # type: ignore[operator]


def test_negative_jitter_is_refused() -> None:
    with pytest.raises(ScheduleError, match="is negative"):
        parse("@daily", bounds=Bounds.of(jitter_seconds=-1))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    text=st.sampled_from(["* * * * *", "*/7 * * * *", "0 9 * * 1-5", "every 90s", "* * * * * *"]),
    jitter=st.integers(1, 100_000),
    job=st.text("ab", max_size=3),
    offset=st.integers(0, 1_000_000),
)
def test_jitter_keeps_the_order_and_number_of_occurrences(
    text: str, jitter: int, job: str, offset: int
) -> None:
    plain = parse(text, now=NOW)
    jittered = parse(text, now=NOW, spread=job, bounds=Bounds.of(jitter_seconds=jitter))
    start = NOW + timedelta(seconds=offset)
    nominal = plain.between(start, start + timedelta(days=30), limit=30)
    at = nominal[0] - timedelta(milliseconds=1)
    for planned, following in pairwise(nominal):
        delayed = jittered.next_after(max(at, planned - timedelta(milliseconds=1)))
        assert delayed is not None
        assert planned <= delayed < following
        assert delayed <= planned + timedelta(seconds=jitter)
        assert jittered.latest_until(delayed) == delayed
        assert jittered.next_after(delayed - timedelta(milliseconds=1)) == delayed
        at = delayed


def test_bounds_do_not_change_how_a_schedule_is_shown_or_exported() -> None:
    plain = parse("every monday 9am", timezone="Europe/Berlin")
    narrowed = parse(
        "every monday 9am",
        timezone="Europe/Berlin",
        bounds=Bounds.of(start=NOW, end=WEEKS, exclude=["2026-12-28"], jitter_seconds=9),
    )

    for name in ("text", "kind", "timezone", "display", "period_seconds"):
        assert getattr(narrowed, name) == getattr(plain, name)
    assert narrowed.to_hermes() == plain.to_hermes()
