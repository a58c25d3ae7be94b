"""Measure one step to the next due time, beside croniter, cronsim and Celery's crontab.

    python bench/next_instant.py

Twenty everyday expressions are measured in UTC and in Europe/Berlin, in one process. Each library
steps from an aware datetime to the next one, as in a scheduler's loop. The expression is parsed
once beforehand, if the library allows that. (Celery's crontab returns the remaining time, as Celery
beat asks for it.) `ours, ms` is the same step on Unix milliseconds, as the tick uses it. The table
has medians in microseconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from celery import Celery
from celery.schedules import ParseException, crontab
from croniter import croniter
from cronsim import CronSim

from hermes_celery.schedule import parse

EXPRESSIONS = (
    "* * * * *",
    "*/5 * * * *",
    "*/15 * * * *",
    "0 * * * *",
    "30 * * * *",
    "0 */2 * * *",
    "0 9 * * *",
    "30 2 * * *",
    "0 9 * * 1-5",
    "0 9,17 * * *",
    "*/10 9-17 * * 1-5",
    "0 0 * * 0",
    "0 22 * * 1-5",
    "5 4 * * sun",
    "0 0 1 * *",
    "15 14 1 * *",
    "0 0 1,15 * *",
    "0 0 1 1 *",
    "0 0 L * *",
    "0 9 * * 1#1",
)
ZONES = ("UTC", "Europe/Berlin")
START = datetime(2026, 6, 1, 0, 0, 30, tzinfo=UTC)
STEPS = 400

Step = Callable[[], object]


def ours(expression: str, zone: str) -> Step:
    schedule = parse(expression, timezone=zone)
    at = START

    def step() -> None:
        nonlocal at
        at = schedule.next_after(at) or START
        if at.year > 2060:
            at = START

    return step


def ours_ms(expression: str, zone: str) -> Step:
    schedule = parse(expression, timezone=zone)
    start = at = int(START.timestamp() * 1000)
    end = int(datetime(2060, 1, 1, tzinfo=UTC).timestamp() * 1000)

    def step() -> None:
        nonlocal at
        at = schedule.next_after_ms(at) or start
        if at > end:
            at = start

    return step


def theirs_croniter(expression: str, zone: str) -> Step:
    cron = croniter(expression, START.astimezone(ZoneInfo(zone)), ret_type=datetime)
    return lambda: cron.get_next(datetime)


def theirs_cronsim(expression: str, zone: str) -> Step:
    local = START.astimezone(ZoneInfo(zone))
    simulation = CronSim(expression, local)
    return lambda: next(simulation)


def theirs_celery(expression: str, zone: str) -> Step:
    # Celery's crontab reads neither L nor #.
    minute, hour, day, month, weekday = expression.split()
    app = Celery(set_as_current=False)
    app.conf.timezone = zone
    last = START.astimezone(ZoneInfo(zone))
    schedule = crontab(
        minute=minute,
        hour=hour,
        day_of_month=day,
        month_of_year=month,
        day_of_week=weekday,
        app=app,
        nowfun=lambda: last,
    )
    return lambda: schedule.remaining_estimate(last)


LIBRARIES: dict[str, Callable[[str, str], Step]] = {
    "ours, ms": ours_ms,
    "ours": ours,
    "croniter": theirs_croniter,
    "cronsim": theirs_cronsim,
    "celery": theirs_celery,
}


def median_us(step: Step) -> float:
    """Return the median of many single steps without the first ones, in microseconds."""
    for _ in range(20):
        step()
    times = []
    for _ in range(STEPS):
        started = time.perf_counter_ns()
        step()
        times.append(time.perf_counter_ns() - started)
    return statistics.median(times) / 1000


def measure(make: Callable[[str, str], Step], expression: str, zone: str) -> float | None:
    """Return the median in microseconds, or None if the library cannot read the expression."""
    try:
        return median_us(make(expression, zone))
    except (ValueError, ParseException):
        return None


def row(head: str, cells: list[float | None]) -> str:
    shown = ("-" if cell is None else f"{cell:.1f}" for cell in cells)
    return f"{head:22}" + "".join(f"{cell:>10}" for cell in shown)


def main() -> None:
    """Measure and print one table per zone."""
    for zone in ZONES:
        print(f"\n{zone:22}" + "".join(f"{name:>10}" for name in LIBRARIES))
        columns: list[list[float]] = [[] for _ in LIBRARIES]
        for expression in EXPRESSIONS:
            cells = [measure(make, expression, zone) for make in LIBRARIES.values()]
            for column, cell in zip(columns, cells, strict=True):
                column += [] if cell is None else [cell]
            print(row(expression, cells))
        medians = [statistics.median(column) for column in columns]
        print(row("median, us", [*medians]))
        print(row("times ours", [median / medians[1] for median in medians]))


if __name__ == "__main__":
    main()
