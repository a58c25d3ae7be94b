"""Schedules behave as recorded from other schedulers, row by row.

`cron_next`, `cron_reject` and `dst` were collected from the test suites of robfig/cron, cronexpr,
cronsim, croniter, Cronos and croner; `hermes` was recorded from Hermes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from hermes_celery.schedule import Schedule, ScheduleError, from_hermes, parse
from hermes_celery.schedule.durations import read_duration_ms

CASES = Path(__file__).parents[2] / "data" / "cases"
NOW = datetime(2026, 6, 22, 12, tzinfo=UTC)

#: Recorded rows that we do not follow, by expression, with the reason.
NOT_FOLLOWED = {
    "* * * * MONL": (
        "cronsim knows no weekday names before L; we read friL as the last Friday, as the rows "
        "for FRIL, fril and MONL,FRIL of croner demand"
    ),
}


def rows(name: str) -> Iterator[dict[str, Any]]:
    for line in (CASES / f"{name}.jsonl").read_text().splitlines():
        yield json.loads(line)


def hermes_rows(area: str) -> list[Any]:
    found = [row for row in rows("hermes") if row["area"] == area]
    return [pytest.param(row, id=_hermes_id(row)) for row in found]


def _hermes_id(row: dict[str, Any]) -> str:
    given = row["input"]
    if "text" in given:
        return str(given["text"] or "(empty)")
    schedule = given["schedule"]
    said = schedule.get("expr") or f"every {schedule['minutes']}m"
    return f"{said} {given['timezone']} {given.get('last_run_at') or given['walk_from']}"


def next_rows() -> list[Any]:
    return [
        pytest.param(row, id=f"{row['expr']} {row['tz']} after {row['from']}")
        for row in rows("cron_next")
    ]


@pytest.mark.parametrize("row", next_rows())
def test_the_next_instant_is_as_recorded(row: dict[str, str]) -> None:
    if row["next"] is None:
        with pytest.raises(ScheduleError, match="can never run"):
            parse(row["expr"], timezone=row["tz"])
        return
    schedule = parse(row["expr"], timezone=row["tz"])
    after = datetime.fromisoformat(row["from"])

    assert schedule.next_after(after) == datetime.fromisoformat(row["next"])


def reject_rows() -> list[Any]:
    return [
        pytest.param(
            row["expr"],
            id=row["expr"] or "(empty)",
            marks=[
                pytest.mark.xfail(strict=True, reason=reason)
                for expression, reason in NOT_FOLLOWED.items()
                if expression == row["expr"]
            ],
        )
        for row in rows("cron_reject")
    ]


@pytest.mark.parametrize("expression", reject_rows())
def test_a_wrong_expression_is_refused(expression: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        parse(expression)

    message = str(refused.value)
    assert repr(" ".join(expression.split())) in message
    if len(expression.split()) > 1:
        assert "(fields: minute hour day month weekday)" in message


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=f"{row['expr']}: {row['name']}") for row in rows("dst")]
)
def test_instants_around_a_clock_change_are_as_recorded(row: dict[str, Any]) -> None:
    schedule = parse(row["expr"], timezone=row["tz"])
    start, end = datetime.fromisoformat(row["start"]), datetime.fromisoformat(row["end"])

    zone = ZoneInfo(row["tz"])
    local = [instant.astimezone(zone).isoformat() for instant in schedule.between(start, end)]

    assert local == row["fires"]


@pytest.mark.parametrize("row", hermes_rows("schedule.duration@main"))
def test_durations_are_as_long_as_in_hermes(row: dict[str, Any]) -> None:
    text, expected = row["input"]["text"], row["expected"]
    if "error_type" in expected:
        with pytest.raises(ScheduleError):
            read_duration_ms(text)
        with pytest.raises(ScheduleError):
            parse(text, now=NOW)
        return
    assert read_duration_ms(text) == expected["minutes"] * 60_000
    assert parse(text, now=NOW).period_seconds == expected["minutes"] * 60


@pytest.mark.parametrize("row", hermes_rows("schedule.parse@main"))
def test_texts_have_the_same_meaning_as_in_hermes(row: dict[str, Any]) -> None:
    text, expected = row["input"]["text"], row["expected"]
    if "error_type" in expected:
        with pytest.raises(ScheduleError):
            parse(text, now=NOW)
        return
    stored = parse(text, now=NOW).to_hermes()

    contained = expected.pop("run_at_contains", None)
    assert {key: stored[key] for key in expected} == expected
    if contained:
        assert contained in str(stored["run_at"])


@pytest.mark.parametrize("row", hermes_rows("schedule.parse_dst@main"))
def test_durations_from_now_are_real_elapsed_time_as_in_hermes(row: dict[str, Any]) -> None:
    given = row["input"]
    now = datetime.fromisoformat(given["now"])
    schedule = parse(given["text"], timezone=given["timezone"], now=now)

    assert schedule.to_hermes()["run_at"] == row["expected"]["run_at"]


@pytest.mark.parametrize("row", hermes_rows("schedule.next_dst@main"))
def test_clock_changes_are_crossed_as_in_hermes(row: dict[str, Any]) -> None:
    given, expected = row["input"], row["expected"]
    if "walk_from" in given:
        _check_walk(given, expected)
    else:
        _check_next(given, expected)


def _check_next(given: dict[str, Any], expected: dict[str, Any]) -> None:
    last = datetime.fromisoformat(given["last_run_at"])
    schedule = _stored(given, anchor=last)
    answer = expected["next_run_at"]
    following = schedule.next_after(last)
    assert following is not None
    assert following > last
    if answer.endswith("strictly after the base"):
        # 01:15-05:00 lies in the repeated hour; only the first 01:30, at -04:00, counts.
        assert following.astimezone(ZoneInfo(given["timezone"])).strftime("%H:%M") == "01:30"
        return
    assert following == datetime.fromisoformat(answer.removesuffix(" (as an instant)"))


def _check_walk(given: dict[str, Any], expected: dict[str, Any]) -> None:
    zone = ZoneInfo(given["timezone"])
    start = datetime.fromisoformat(given["walk_from"])
    schedule = _stored(given, anchor=start)
    if "steps" in given:
        year = schedule.between(start + timedelta(seconds=1), start + timedelta(days=400))
        walked = [instant.astimezone(zone) for instant in year[: given["steps"]]]
        assert len({instant.date() for instant in walked}) == given["steps"]
        assert {f"{instant:%H:%M}" for instant in walked} == {expected["every_step_local_time"]}
        return
    walked = [
        instant.astimezone(zone)
        for instant in schedule.between(start, datetime.fromisoformat(given["walk_until"]))
    ]
    assert sum(instant.hour == 1 for instant in walked) == expected["runs"]


def _stored(given: dict[str, Any], *, anchor: datetime) -> Schedule:
    return from_hermes(given["schedule"], timezone=given["timezone"], now=anchor)


def test_no_recorded_case_is_missing() -> None:
    counts = {name: len(list(rows(name))) for name in ("cron_next", "cron_reject", "dst", "hermes")}

    assert counts == {"cron_next": 752, "cron_reject": 102, "dst": 18, "hermes": 289}
