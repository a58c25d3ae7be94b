"""The words for a schedule, and the warnings about its surprises."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_celery.schedule import Bounds, Explanation, parse
from hermes_celery.schedule.explaining import explain

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def explained(text: str, *, timezone: str = "Europe/Berlin") -> Explanation:
    return explain(parse(text, timezone=timezone, now=NOW), now=NOW)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("* * * * *", "Every minute"),
        ("*/15 * * * *", "Every 15 minutes"),
        ("0/15 * * * *", "Every 15 minutes"),
        ("*/90 * * * *", "Every hour"),
        ("*/7 * * * *", "At 0, 7, 14, 21, 28, 35, 42, 49, and 56 minutes past the hour"),
        ("0 */2 * * *", "Every 2 hours"),
        ("* 1-6 * * *", "Every minute, between 01:00 and 06:59"),
        ("* * * * * */10", "Every 10 seconds"),
        ("0 9 * * *", "At 09:00"),
        ("0 9 * * * 30", "At 09:00:30"),
        ("0,30 9,17 * * *", "At 09:00, 09:30, 17:00 and 17:30"),
        ("0 9 * * 1-5", "At 09:00, on Monday to Friday"),
        ("0 9 * * 0,6", "At 09:00, on Saturday and Sunday"),
        ("0 9 * * fri-mon", "At 09:00, on Monday and Friday to Sunday"),
        ("0 9 1,15 * 5", "At 09:00, on day 1 and 15 of the month or on Friday"),
        ("0 9 1-7 * */7", "At 09:00, on day 1 to 7 of the month if that is Sunday"),
        ("0 9 1 * 0-6", "At 09:00, every day"),
        ("0 9 L * *", "At 09:00, on the last day of the month"),
        ("0 9 L-1 * *", "At 09:00, on the day 1 day before the last of the month"),
        ("0 9 LW * *", "At 09:00, on the last weekday of the month"),
        (
            "0 9 1W,15W * *",
            "At 09:00, on the weekday nearest to day 1 of the month and the weekday nearest to "
            "day 15 of the month",
        ),
        (
            "0 9 L-3W * *",
            "At 09:00, on the weekday nearest to the day 3 days before the last of the month",
        ),
        ("0 9 * * 5L", "At 09:00, on the last Friday of the month"),
        ("0 9 * * mon,fri#2", "At 09:00, on Monday and the second Friday of the month"),
        ("0 9 1 1-3,6 *", "At 09:00, on day 1 of the month, in January to March and June"),
        ("0 9 1 1 * 0 2030", "At 09:00, on day 1 of the month, in January, in 2030"),
        ("every monday 9am", "At 09:00, on Monday"),
        ("daily at 9am and 5:30pm", "At 09:00; and at 17:30"),
        ("every 1h30m", "Every 1 hour 30 minutes, counted from 2026-11-23T13:00:00+01:00"),
        ("every hour", "Every hour, counted from 2026-11-23T13:00:00+01:00"),
        ("in 3h", "Once, at 2026-11-23T16:00:00+01:00"),
    ],
)
def test_a_schedule_has_words(text: str, words: str) -> None:
    assert explained(text).words == words


def numbers(words: str, names: tuple[str, ...]) -> set[int]:
    """Return the numbers of `a, b and c to d`; the first name is 1."""
    found: set[int] = set()
    for part in re.split(r", | and ", words):
        low, _, high = part.partition(" to ")
        first = names.index(low) + 1
        last = names.index(high) + 1 if high else first
        found |= set(range(first, last + 1))
    return found


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    times=st.sets(st.integers(0, 23), min_size=1, max_size=6),
    minute=st.integers(0, 59),
    months=st.sets(st.integers(1, 12), min_size=1, max_size=11),
    data=st.data(),
)
def test_the_words_match_the_instants(
    times: set[int], minute: int, months: set[int], data: st.DataObject
) -> None:
    by_weekday = data.draw(st.booleans())
    chosen = data.draw(st.sets(st.integers(1, 7 if by_weekday else 28), min_size=1, max_size=6))
    fields = (",".join(map(str, sorted(values))) for values in (times, chosen, months))
    hours, days, in_months = fields
    day_fields = f"* {in_months} {days}" if by_weekday else f"{days} {in_months} *"
    schedule = parse(f"{minute} {hours} {day_fields}")

    read = re.fullmatch(
        r"At (?P<times>[\d:, and]+), on (?:day (?P<days>.+) of the month|(?P<weekdays>.+?)), "
        r"in (?P<months>.+)",
        explain(schedule).words,
    )
    assert read is not None
    found = schedule.between(NOW, NOW + timedelta(days=366))

    assert {f"{at:%H:%M}" for at in found} == set(re.split(r", | and ", read["times"]))
    assert {at.month for at in found} == numbers(read["months"], MONTHS)
    if by_weekday:
        assert {at.isoweekday() for at in found} == numbers(read["weekdays"], WEEKDAYS)
    else:
        everyday = tuple(map(str, range(1, 32)))
        assert {at.day for at in found} == numbers(read["days"], everyday)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    minutes=st.sampled_from(["*", "*/5", "*/7", "5/20", "0", "10-30", "1,2,3,40", "H"]),
    hours=st.sampled_from(["*", "*/3", "*/5", "9-17", "8/4", "0,1,2,3,4,5,6,7", "H"]),
)
def test_the_words_name_all_times_of_day(minutes: str, hours: str) -> None:
    """The test reads back the numbers in cron-descriptor's words."""
    schedule = parse(f"{minutes} {hours} * * *", spread="words")
    words = explain(schedule).words
    found = schedule.between(NOW, NOW + timedelta(hours=24) - timedelta(seconds=1))

    every = re.match(r"Every (\d+)? ?minutes?\b(?! between)", words)
    listed = re.match(r"At ([\d, and]+) minutes past the hour", words)
    if every:
        assert {at.minute for at in found} == set(range(0, 60, int(every[1] or 1)))
    elif listed:
        assert {at.minute for at in found} == {int(n) for n in re.findall(r"\d+", listed[1])}
    span = re.search(r"between (\d+):00 and (\d+):59", words)
    if span:
        assert {at.hour for at in found} == set(range(int(span[1]), int(span[2]) + 1))
    hourly = re.search(r"[Ee]very (\d+) hours", words)
    if hourly:
        assert {at.hour for at in found} == set(range(0, 24, int(hourly[1])))
    clock = {f"{at:%H:%M}" for at in found}
    if len(clock) <= 6:
        assert set(re.findall(r"\d\d:\d\d", words)) == clock


def test_an_explanation_has_the_normal_form_and_the_zone() -> None:
    explanation = explained("CRON_TZ=Asia/Tokyo every monday 9am")

    assert explanation.normal_form == "0 9 * * 1"
    assert explanation.timezone == "Asia/Tokyo"


def test_bounds_are_part_of_the_words() -> None:
    schedule = parse(
        "0 9 * * *",
        timezone="Europe/Berlin",
        bounds=Bounds.of(
            start=NOW,
            end=NOW + timedelta(days=99),
            exclude=["* * 24-26 12 *", "2027-01-01"],
            jitter_seconds=90,
        ),
    )

    assert explain(schedule).words == (
        "At 09:00, except * * 24-26 12 * and 2027-01-01, from 2026-11-23T13:00:00+01:00 until "
        "2027-03-02T13:00:00+01:00, delayed by up to 1 minute 30 seconds"
    )


@pytest.mark.parametrize(
    ("text", "timezone", "warnings"),
    [
        (
            "30 2 * * *",
            "Europe/Berlin",
            [
                "02:30 does not exist on 2027-03-28 in Europe/Berlin: runs at 03:00",
                "02:30 comes twice on 2027-10-31 in Europe/Berlin: runs at the first only "
                "(at +02:00)",
            ],
        ),
        (
            "*/20 2 * * *",
            "Europe/Berlin",
            [
                "02:00, 02:20, 02:40 do not exist on 2027-03-28 in Europe/Berlin: no run then",
                "02:00, 02:20, 02:40 come twice on 2027-10-31 in Europe/Berlin: runs both times",
            ],
        ),
        (
            "30 23 * * *",
            "America/Nuuk",
            [
                "23:30 does not exist on 2027-03-27 in America/Nuuk: runs at 00:00",
                "23:30 comes twice on 2027-10-30 in America/Nuuk: runs at the first only "
                "(at -01:00)",
            ],
        ),
        ("30 2 * * 1", "Europe/Berlin", []),
        ("*/5 * * * *", "Europe/Berlin", []),
        ("0 9 * * *", "Europe/Berlin", []),
        ("30 2 * * *", "UTC", []),
    ],
)
def test_clock_changes_that_matter_are_named(text: str, timezone: str, warnings: list[str]) -> None:
    assert list(explained(text, timezone=timezone).warnings) == warnings


def test_a_day_that_does_not_exist_is_named() -> None:
    before = datetime(2011, 12, 1, tzinfo=UTC)
    schedule = parse("0 9 * * *", timezone="Pacific/Apia")

    assert (
        "2011-12-30 does not exist in Pacific/Apia: no run"
        in explain(schedule, now=before).warnings
    )
    days = [at.day for at in schedule.between(before, before + timedelta(days=60))]
    assert 30 - 2 in days


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("*/90 * * * *", "minute */90 is only minute 0: the step is not smaller than the field"),
        (
            "*/7 * * * *",
            "minute */7 starts again at 0: from 56 to 0 it waits 4, not 7; 'every 7m' keeps its "
            "period",
        ),
        ("0 */5 * * *", "hour */5 starts again at 0: from 20 to 0 it waits 4, not 5"),
        ("* 9 * * *", "runs in every minute of the hours 9; minute 0 would be once an hour"),
        ("0 9 1 * 1", "runs when day 1 or weekday 1 matches, not only when both do"),
        ("0 9 31 * *", "some months have no day 31"),
        ("0 9 29 2 *", "February outside leap years has no day 29"),
        ("every 1d", "the time of day moves when clocks change"),
        ("2020-01-01T00:00", "2020-01-01T00:00:00+01:00 has passed"),
    ],
)
def test_a_surprising_schedule_has_a_warning(text: str, warning: str) -> None:
    assert any(warning in found for found in explained(text).warnings)


@pytest.mark.parametrize("text", ["*/15 * * * *", "0 9 * * 1-5", "0 9 L * *", "0 9 28 * *", "1h"])
def test_an_ordinary_schedule_has_no_warning(text: str) -> None:
    assert explained(text).warnings == ()


def test_without_the_present_time_no_clock_changes_are_named() -> None:
    assert explain(parse("30 2 * * *", timezone="Europe/Berlin")).warnings == ()
