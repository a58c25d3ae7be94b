"""Texts of every grammar become schedules, and all other texts are refused."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import combinations_with_replacement, pairwise

import pytest

from hermes_celery.errors import HermesCeleryError
from hermes_celery.schedule import MAX_LENGTH, Schedule, ScheduleError, ScheduleKind, parse
from hermes_celery.schedule.explaining import explain

NOW = datetime(2026, 6, 22, 12, tzinfo=UTC)


def refusal(text: str, *, timezone: str | None = None) -> str:
    with pytest.raises(ScheduleError) as refused:
        parse(text, timezone=timezone, now=NOW)
    return str(refused.value)


def days_of(text: str, count: int, *, timezone: str = "UTC") -> list[str]:
    schedule = parse(text, timezone=timezone)
    found = schedule.between(datetime(2027, 1, 1, tzinfo=UTC), datetime(2029, 1, 1, tzinfo=UTC))
    return [instant.date().isoformat() for instant in found[:count]]


@pytest.mark.parametrize(
    ("text", "normal", "display"),
    [
        ("  0  9 * *  1-5 ", "0 9 * * 1-5", "0 9 * * 1-5"),
        ("@daily", "0 0 * * *", "@daily"),
        ("@Weekly", "0 0 * * 0", "@Weekly"),
        ("@every 1h30m", "every 1h30m", "every 90m"),
        ("30m", "every 30m", "every 30m"),
        ("every 2 hours", "every 2h", "every 120m"),
        ("every 90s", "every 1m30s", "every 1m30s"),
        ("each week", "every 1w", "every 10080m"),
        ("1 hour and 30 minutes", "every 1h30m", "every 90m"),
        ("every day", "every 1d", "every 1440m"),
        ("Every Monday 9AM", "0 9 * * 1", "Every Monday 9AM"),
        ("every mon, wed and fri at 17:30", "30 17 * * 1,3,5", "every mon, wed and fri at 17:30"),
        ("mondays at 9", "0 9 * * 1", "mondays at 9"),
        ("weekends at midnight", "0 0 * * 0,6", "weekends at midnight"),
        ("on sunday at noon", "0 12 * * 0", "on sunday at noon"),
        ("every weekday at 12:15 am", "15 0 * * 1-5", "every weekday at 12:15 am"),
        ("daily at 9am and 5pm", "0 9,17 * * *", "daily at 9am and 5pm"),
        ("daily at 9am, 5:30pm", "0 9 * * * | 30 17 * * *", "daily at 9am, 5:30pm"),
        ("every 1d at 09:00", "0 9 * * *", "every 1d at 09:00"),
        ("in 45m", "2026-06-22T12:45:00+00:00", "once in 45m"),
        ("in 1 hour", "2026-06-22T13:00:00+00:00", "once in 1h"),
        ("2030-01-15T14:00", "2030-01-15T14:00:00+00:00", "once at 2030-01-15 14:00"),
        ("2030-01-15 14:00:30", "2030-01-15T14:00:30+00:00", "once at 2030-01-15 14:00:30"),
        ("2030-01-15", "2030-01-15T00:00:00+00:00", "once at 2030-01-15 00:00"),
        ("2030-01-15T14:00+02:00", "2030-01-15T12:00:00+00:00", "once at 2030-01-15 14:00"),
        ("2030-01-15T14:00:00Z", "2030-01-15T14:00:00+00:00", "once at 2030-01-15 14:00"),
        ("0 9 * * 1 | 0 12 * * 6", "0 9 * * 1 | 0 12 * * 6", "0 9 * * 1 | 0 12 * * 6"),
        ("H 9 * * *", "H 9 * * *", "H 9 * * *"),
    ],
)
def test_a_text_has_a_normal_form_and_is_shown_as_hermes_shows_it(
    text: str, normal: str, display: str
) -> None:
    schedule = parse(text, now=NOW)

    assert (schedule.text, schedule.display) == (normal, display)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0 9 * * *", ScheduleKind.CRON),
        ("every monday 9am", ScheduleKind.CRON),
        ("0 9 * * * | every 2h", ScheduleKind.CRON),
        ("30m", ScheduleKind.INTERVAL),
        ("every 30m", ScheduleKind.INTERVAL),
        ("in 30m", ScheduleKind.ONCE),
        ("2030-01-15", ScheduleKind.ONCE),
    ],
)
def test_a_text_has_a_kind(text: str, kind: ScheduleKind) -> None:
    assert parse(text, now=NOW).kind is kind


@pytest.mark.parametrize(
    "text",
    [
        "H H * * *",
        "every 1h30m",
        "in 45m",
        "2027-03-28T02:30",
        "2027-10-31T02:30",
        "daily at 9am, 5:30pm",
        "CRON_TZ=Asia/Tokyo 0 9 * * * | 0 12 * * *",
        "CRON_TZ=Asia/Tokyo 0 9 * * * | CRON_TZ=UTC 0 12 * * *",
        "every 2h | 0 9 L * *",
    ],
)
def test_the_normal_form_parses_to_the_same_schedule(text: str) -> None:
    first = parse(text, timezone="Europe/Berlin", now=NOW, spread="a1b2")
    again = parse(first.text, timezone=first.timezone, now=NOW, spread="a1b2")

    assert again.text == first.text
    assert instants(again) == instants(first)


def instants(schedule: Schedule) -> tuple[datetime, ...]:
    return schedule.between(NOW, NOW + timedelta(days=900), limit=50)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("60 * * * *", "minute 60 is outside 0-59 (fields: minute hour day month weekday)"),
        (
            "* * * * * 60",
            "second 60 is outside 0-59 (fields: minute hour day month weekday second)",
        ),
        ("0 0 1 1 * 0 1969", "year 1969 is outside 1970-2099"),
        ("0 17-9 * * *", "hour range '17-9' runs backwards; write 17-23,0-9"),
        ("0 0 25-5 * *", "write 25-31,1-5"),
        ("0 9 * * FUNDAY", "weekday 'FUNDAY' is not a number or a weekday's name"),
        ("0 0 * * L", "'L' needs a weekday"),
        ("0 0 L-31 * *", "L-31 goes back 31 days"),
        ("0 0 1-5W * *", "W on a range"),
        ("0 0 * * 1#6", "'#6' is not one of #1 to #5"),
        ("*/0 * * * *", "step 0 would never advance"),
        ("R * * * *", "use H, which spreads jobs"),
        ("H 60 * * *", "'H 60 * * *': hour 60 is outside 0-23"),
        ("funday at 9am", "is not a schedule; use for example"),
        ("H(5-70) * * * *", "minute 70 is outside 0-59"),
        ("H(9-5) * * * *", "H(9-5) runs backwards"),
        ("0 0 1 1 * 0 H", "year 'H'"),
        ("* * *\u00a0* *", "contains '\\xa0'"),
        ("0 0 30 2 *", "can never run: there is no day 30 in month 2"),
        ("0 0 31 4,6 *", "can never run: there is no day 31 in month 4,6"),
        ("0 0 29 2 * 0 2027", "within year 2027"),
        ("0 0 L-30 2 *", "can never run"),
        ("0 9 * *", "has 4 fields; a cron expression has five"),
        ("0 9 * * * * * *", "has 8 fields"),
        ("@reboot", "is not a time"),
        ("@sometimes", "use one of @yearly"),
        ("", "is empty; use for example 'every monday 9am'"),
        ("0 9 * * * |", "nothing on one side of '|'"),
        ("hourly", "is not a schedule; use for example"),
        ("every monday", "names no time of day"),
        ("daily", "names no time of day"),
        ("every monday 7", "does not say what '7' is"),
        ("every monday 13pm", "not a time of day"),
        ("every monday 24:00", "not a time of day"),
        ("every monday 9pm pizza", "'9pm pizza' where a time of day should be"),
        ("every monday and monday at 9am", "names a day twice"),
        ("daily at 9am and 9:00", "names a time twice"),
        ("weekdays and mondays at 9am", "'weekdays', which is not a day of the week"),
        ("every 2d at 9am", "mixes a period with a time of day"),
        ("tomorrow at 9am", "'tomorrow', which is not a day of the week"),
        ("30m1h", "each unit once, the longest first"),
        ("1h1h", "each unit once, the longest first"),
        ("every 5 parsecs", "'parsecs' is not a unit of time"),
        ("in 5", "is not a duration"),
        ("0m", "is zero"),
        ("every 101 years", "'years' is not a unit of time"),
        ("every 99999999d", "longer than a century"),
        ("2027-02-30T09:00", "is not a real time: day is out of range for month"),
        ("2027-2-3", "is not an ISO time"),
        ("1969-12-31T23:00", "outside the years 1970-2099"),
        ("CRON_TZ=Mars/Base 0 9 * * *", "'Mars/Base' is not a time zone"),
        ("CRON_TZ= 0 9 * * *", "'' is not a time zone"),
        ("* " * 200, "400 characters is too long; use 256 or less"),
    ],
)
def test_an_invalid_text_is_refused_with_the_reason(text: str, fault: str) -> None:
    assert fault in refusal(text)


@pytest.mark.parametrize(
    "zone",
    ["Mars/Base", "../../etc/passwd", "Europe", "right/UTC", "+25:00", "+01:75", "Bad\0Zone"],
)
def test_an_unknown_zone_is_refused_with_an_example(zone: str) -> None:
    assert "'Europe/Berlin'" in refusal("0 9 * * *", timezone=zone)


def test_schedule_errors_are_also_value_errors() -> None:
    assert issubclass(ScheduleError, ValueError)
    assert issubclass(ScheduleError, HermesCeleryError)


def test_a_schedule_that_is_not_a_text_is_refused() -> None:
    with pytest.raises(ScheduleError, match="is not a text"):
        parse(5)  # type: ignore[arg-type]


def test_the_length_is_capped_at_256() -> None:
    longest = "0 9 * * 1" + ",1" * ((MAX_LENGTH - 9) // 2)

    assert len(longest) == MAX_LENGTH - 1
    assert days_of(longest, 1) == ["2027-01-04"]
    assert "too long" in refusal(longest + ",1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5-5 0 1 1 *", ["2027-01-01", "2028-01-01"]),
        ("0 0 * * 7-7", ["2027-01-03", "2027-01-10"]),
        ("0 0 * * 0-7", ["2027-01-01", "2027-01-02"]),
        ("0 0 * * mon#2,fri", ["2027-01-01", "2027-01-08", "2027-01-11"]),
        ("0 0 * * fri#L", ["2027-01-29", "2027-02-26"]),
        ("0 0 * * mon-wed#1", ["2027-01-04", "2027-01-05", "2027-01-06", "2027-02-01"]),
        ("0 0 1W,15W * *", ["2027-01-01", "2027-01-15", "2027-02-01", "2027-02-15"]),
        ("0 0 31 2 0", ["2027-02-07", "2027-02-14"]),
        ("0 0 1 january,March *", ["2027-01-01", "2027-03-01"]),
        ("0 0 1-7 * */7", ["2027-01-03", "2027-02-07"]),
        ("0 0 1-7 * 0", ["2027-01-01", "2027-01-02", "2027-01-03"]),
        ("0 0 ? 2 MON", ["2027-02-01", "2027-02-08"]),
        ("0 0 1 1 * 0 2028", ["2028-01-01"]),
    ],
)
def test_an_expression_matches_the_expected_days(text: str, expected: list[str]) -> None:
    assert days_of(text, len(expected)) == expected


@pytest.mark.parametrize("low", range(60))
def test_a_range_of_one_is_one_value(low: int) -> None:
    schedule = parse(f"{low}-{low} * * * *")

    assert schedule.between(NOW, NOW + timedelta(hours=1, seconds=-1)) == (
        NOW + timedelta(minutes=low),
    )


@pytest.mark.parametrize("start", [0, 7, 50, 59])
@pytest.mark.parametrize("step", [1, 7, 15, 59, 60, 99])
@pytest.mark.parametrize("form", ["{start}-59/{step}", "{start}/{step}"])
def test_croniter_expands_ranges_with_steps_as_crontab_says(
    start: int, step: int, form: str
) -> None:
    schedule = parse(f"{form.format(start=start, step=step)} * * * *")

    found = schedule.between(NOW, NOW + timedelta(minutes=59))

    assert [instant.minute for instant in found] == list(range(start, 60, step))


@pytest.mark.parametrize(("low", "high"), [*combinations_with_replacement(range(8), 2)])
@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_weekday_ranges_with_steps_are_as_crontab_says(low: int, high: int, step: int) -> None:
    expected = {number % 7 for number in range(low, high + 1, step)}

    found = parse(f"0 0 * * {low}-{high}/{step}").between(NOW, NOW + timedelta(days=7))

    assert {instant.isoweekday() % 7 for instant in found} == expected


def test_the_sixth_field_is_seconds_and_the_seventh_years() -> None:
    schedule = parse("59 23 31 12 * 50/5 2026-2027")

    found = schedule.between(NOW, datetime(2099, 1, 1, tzinfo=UTC))

    assert [instant.isoformat()[:19] for instant in found] == [
        "2026-12-31T23:59:50",
        "2026-12-31T23:59:55",
        "2027-12-31T23:59:50",
        "2027-12-31T23:59:55",
    ]
    assert schedule.next_after(found[-1]) is None
    assert schedule.latest_until(datetime(2099, 1, 1, tzinfo=UTC)) == found[-1]


def test_cron_tz_wins_over_the_given_zone() -> None:
    schedule = parse("CRON_TZ=Asia/Tokyo 0 9 * * *", timezone="Europe/Berlin")

    assert schedule.timezone == "Asia/Tokyo"
    assert schedule.next_after(NOW) == datetime(2026, 6, 23, 0, tzinfo=UTC)


def test_a_fixed_offset_is_a_zone() -> None:
    schedule = parse("0 13 * * 2", timezone="+02:00")

    assert schedule.next_after(NOW) == datetime(2026, 6, 23, 11, tzinfo=UTC)


def test_h_differs_between_jobs_and_is_fixed_for_each_job() -> None:
    firsts = {parse("H H * * *", spread=f"job-{n}").next_after(NOW) for n in range(50)}

    assert len(firsts) > 40
    # This value must stay the same on every machine and in every version.
    assert parse("H H * * *", spread="0123456789ab").next_after(NOW) == datetime(
        2026, 6, 22, 12, 4, tzinfo=UTC
    )


def test_jobs_with_the_same_value_of_h_share_the_compiled_form() -> None:
    drawn = {id(parse("0 H * * *", spread=str(n)).pattern) for n in range(200)}  # type: ignore[attr-defined]

    assert len(drawn) == 24


def test_h_stays_within_its_range() -> None:
    for n in range(50):
        schedule = parse("H(10-19) H(0-5)/2 H * H", spread=str(n))
        for instant in schedule.between(NOW, NOW + timedelta(days=60)):
            assert 10 <= instant.minute <= 19
            assert instant.hour <= 5


def test_h_with_a_step_keeps_the_step() -> None:
    found = parse("H/15 * * * *", spread="x").between(NOW, NOW + timedelta(hours=3))

    assert {b - a for a, b in pairwise(found)} == {timedelta(minutes=15)}
    firsts = {parse("H/15 * * * *", spread=str(n)).next_after(NOW) for n in range(200)}
    assert len(firsts) == 15


def test_several_expressions_are_one_schedule() -> None:
    schedule = parse("0 9 * * 1-5 | 0 9,12 * * 1,6")

    found = schedule.between(NOW, NOW + timedelta(days=7))

    assert [f"{instant:%a %H}" for instant in found] == [
        *("Mon 12", "Tue 09", "Wed 09", "Thu 09", "Fri 09"),
        *("Sat 09", "Sat 12", "Mon 09", "Mon 12"),
    ]
    assert schedule.latest_until(NOW) == NOW


def test_relative_text_needs_the_present_time() -> None:
    with pytest.raises(ScheduleError, match="counts from now"):
        parse("in 30m")


def test_naive_times_are_refused() -> None:
    naive = datetime(2026, 6, 22)  # noqa: DTZ001 - the missing zone is the fault under test
    with pytest.raises(ScheduleError, match="has no time zone"):
        parse("every 2h", now=naive)
    with pytest.raises(ScheduleError, match="has no time zone"):
        parse("0 9 * * *").next_after(naive)
    with pytest.raises(ScheduleError, match="has no time zone"):
        parse("0 9 * * *").between(NOW, naive)


def test_an_interval_keeps_its_grid() -> None:
    schedule = parse("every 2h", timezone="Europe/Berlin", now=NOW)

    assert schedule.period_seconds == 7200
    assert schedule.latest_until(NOW + timedelta(hours=1)) is None
    assert schedule.next_after(NOW - timedelta(days=9)) == NOW + timedelta(hours=2)
    assert schedule.next_after(NOW + timedelta(hours=7, minutes=3)) == NOW + timedelta(hours=8)
    assert schedule.latest_until(NOW + timedelta(hours=8)) == NOW + timedelta(hours=8)


def test_an_interval_is_elapsed_time_across_a_clock_change() -> None:
    anchor = datetime.fromisoformat("2027-03-28T01:30:00+01:00")
    schedule = parse("every 1h", timezone="Europe/Berlin", now=anchor)

    assert schedule.next_after(anchor) == datetime.fromisoformat("2027-03-28T03:30:00+02:00")


def test_an_interval_without_an_anchor_starts_at_the_epoch() -> None:
    assert parse("every 7h").next_after_ms(0) == 7 * 3_600_000


def test_an_interval_counts_from_whole_milliseconds() -> None:
    now = NOW + timedelta(microseconds=1999)

    assert parse("1s", now=now).next_after(now) == NOW + timedelta(seconds=1, milliseconds=1)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2027-03-28T02:30", "2027-03-28T03:00:00+02:00"),
        ("2027-10-31T02:30", "2027-10-31T02:30:00+02:00"),
        ("2027-03-28T02:30:00.5", "2027-03-28T03:00:00+02:00"),
        ("2027-03-28T01:59:59.5", "2027-03-28T01:59:59.500+01:00"),
    ],
)
def test_a_local_one_shot_follows_the_rule_for_fixed_times(text: str, instant: str) -> None:
    schedule = parse(text, timezone="Europe/Berlin")
    expected = datetime.fromisoformat(instant)

    assert schedule.next_after(NOW) == expected
    assert schedule.latest_until(expected) == expected
    assert schedule.next_after(expected) is None
    assert schedule.latest_until(expected - timedelta(milliseconds=1)) is None


def test_a_past_time_is_parsed_and_has_no_next_instant() -> None:
    assert parse("2020-01-01T00:00").next_after(NOW) is None


def test_all_instants_are_from_1970_to_2099() -> None:
    yearly = parse("0 0 1 1 *", timezone="America/New_York")
    early, late = datetime(1, 1, 2, tzinfo=UTC), datetime(9998, 1, 1, tzinfo=UTC)

    assert yearly.next_after(early) == datetime(1970, 1, 1, 5, tzinfo=UTC)
    assert yearly.latest_until(early) is None
    assert parse("@hourly").next_after(early) == datetime(1970, 1, 1, tzinfo=UTC)
    assert yearly.next_after(late) is None
    assert yearly.latest_until(late) == datetime(2099, 1, 1, 5, tzinfo=UTC)
    assert parse("every 99d").next_after(late) is None
    assert parse("* * * * *").next_after(datetime(2099, 12, 31, 23, 59, tzinfo=UTC)) is None


def test_between_includes_both_ends_and_can_be_limited() -> None:
    schedule = parse("0 * * * *")

    assert len(schedule.between(NOW, NOW + timedelta(hours=3))) == 4
    assert schedule.between(NOW, NOW + timedelta(hours=3), limit=2) == (
        NOW,
        NOW + timedelta(hours=1),
    )
    later = NOW + timedelta(microseconds=1)
    assert schedule.between(later, NOW + timedelta(hours=1)) == (NOW + timedelta(hours=1),)


def test_next_after_ms_equals_next_after() -> None:
    schedule = parse("*/7 3 * * *", timezone="Australia/Lord_Howe")
    instant = schedule.next_after(NOW)
    assert instant is not None

    assert schedule.next_after_ms(int(NOW.timestamp() * 1000)) == instant.timestamp() * 1000


def test_jobs_with_one_text_and_zone_share_its_compiled_form() -> None:
    first = parse("17 4 * * *", timezone="Europe/Berlin", spread="a", now=NOW)
    second = parse("17 4 * * *", timezone="Europe/Berlin", spread="b")

    assert first is second


def test_parsing_an_interval_imports_no_heavy_library() -> None:
    heavy = ("croniter", "cron_descriptor", "zoneinfo", "dateutil", "hashlib")
    code = (
        "import sys; from hermes_celery.schedule import parse; parse('every 2h'); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "normal", "words"),
    [
        ("0 9 * * * delayed 10s", "0 9 * * * delayed 10s", "At 09:00, 10 seconds later"),
        ("0 9 * * * Delayed by 1h", "0 9 * * * delayed 1h", "At 09:00, 1 hour later"),
        ("daily at noon delayed 90s", "0 12 * * * delayed 1m30s", None),
        ("H H * * * delayed 1m", "H H * * * delayed 1m", None),
        ("0 9 * * 1 | 0 12 * * 2 delayed 1m", "0 9 * * 1 | 0 12 * * 2 delayed 1m", None),
        ("every 1m delayed 10s", "every 1m delayed 10s", None),
        ("in 5m delayed 10s", "2026-06-22T12:05:00+00:00 delayed 10s", None),
        ("CRON_TZ=Asia/Tokyo 0 9 * * * delayed 1h", "0 9 * * * delayed 1h", None),
    ],
)
def test_a_delayed_schedule_has_a_normal_form_that_parses_back(
    text: str, normal: str, words: str | None
) -> None:
    now = datetime(2026, 6, 22, 12, tzinfo=UTC)
    schedule = parse(text, now=now, spread="a")
    assert schedule.text == normal
    assert words in (None, explain(schedule).words)
    again = parse(normal, now=now, timezone=schedule.timezone, spread="a")
    assert again.between(now, now + timedelta(days=9), limit=50) == schedule.between(
        now, now + timedelta(days=9), limit=50
    )


def test_a_delay_is_elapsed_time_after_the_nominal_instant() -> None:
    schedule = parse("30 1 * * * delayed 1h", timezone="Europe/Berlin")
    for day in ("2027-03-28", "2027-10-31", "2027-06-01"):
        start = datetime.fromisoformat(f"{day}T00:00:00+00:00") - timedelta(hours=3)
        (nominal, *_) = parse("30 1 * * *", timezone="Europe/Berlin").between(
            start, start + timedelta(hours=23)
        )
        assert schedule.next_after(start) == nominal + timedelta(hours=1)
        assert schedule.latest_until(nominal + timedelta(hours=2)) == nominal + timedelta(hours=1)
        assert schedule.next_after(nominal) == nominal + timedelta(hours=1)


def test_a_delay_is_kept_in_the_hermes_form_of_a_cron_schedule() -> None:
    assert parse("0 9 * * * delayed 1m").to_hermes()["expr"] == "0 9 * * * delayed 1m"
    assert parse("every 5m delayed 1m").to_hermes()["minutes"] == 5


@pytest.mark.parametrize("text", ["0 9 * * * delayed soon", "delayed 10s", "0 9 * * * delayed"])
def test_an_invalid_delay_is_refused(text: str) -> None:
    with pytest.raises(ScheduleError, match=r"is not a (duration|schedule)|second 'delayed'"):
        parse(text)
