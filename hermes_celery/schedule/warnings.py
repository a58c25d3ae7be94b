"""Warn about surprises in a schedule: clock changes, days that some months lack, uneven steps.

A warning about a clock change names its date, so it needs the present time; the others do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hermes_celery.schedule.bounds import Bounded, Excluding, Jittered
from hermes_celery.schedule.compiling import ExpandedCron, read_text
from hermes_celery.schedule.cron_expression import CronExpression
from hermes_celery.schedule.cron_fields import Column
from hermes_celery.schedule.delayed import Delayed
from hermes_celery.schedule.interval import Interval
from hermes_celery.schedule.moments import local_iso
from hermes_celery.schedule.months import DAY_SECONDS
from hermes_celery.schedule.once import Once
from hermes_celery.schedule.schedule import Schedule
from hermes_celery.schedule.time_zones import Zone
from hermes_celery.schedule.union import UnionSchedule

# Contains one spring and one autumn from any day of the year.
_AHEAD_SECONDS: Final = 360 * DAY_SECONDS
_STAR_STEP: Final = re.compile(r"[*]/(\d+)", re.ASCII)
_MOST_TIMES: Final = 3


def warnings_of(schedule: Schedule, *, now_ms: int | None) -> tuple[str, ...]:
    """Return all warnings about a schedule; those about clock changes need `now_ms`."""
    return tuple(dict.fromkeys(_warnings(schedule, now_ms)))


def _warnings(schedule: Schedule, now_ms: int | None) -> Iterator[str]:
    match schedule:
        case CronExpression():
            yield from _about_fields(read_text(schedule.expression))
            if now_ms is not None:
                yield from _about_clock_changes(schedule, now_ms // 1000)
        case Interval() if schedule.period_ms % (DAY_SECONDS * 1000) == 0:
            yield (
                "counts elapsed time: the time of day moves when clocks change; "
                "write a phrase such as 'daily at 9am' to keep it"
            )
        case Once() if now_ms is not None and schedule.at_ms <= now_ms:
            yield f"{schedule.text} has passed"
        case UnionSchedule():
            for part in schedule.parts:
                yield from _warnings(part, now_ms)
        case Excluding() | Bounded() | Jittered() | Delayed():
            yield from _warnings(schedule.inner, now_ms)


def _about_fields(text: ExpandedCron) -> Iterator[str]:
    minute, hour, day, _, weekday = text.fields[:5]
    if len(text.minutes) == 60 and len(text.hours) < 24:
        yield f"runs in every minute of the hours {hour.text}; minute 0 would be once an hour"
    for column in (minute, hour, *text.fields[5:6]):
        yield from _about_step(column)
    if text.either and len(text.weekdays.plain) < 7:
        yield (
            f"runs when day {day.text} or weekday {weekday.text} matches, not only when both do "
            "(crontab(5))"
        )
    elif text.days.plain and text.days.plain & ((1 << 28) - 1) == 0:
        yield from _about_short_months(text)


def _about_step(column: Column) -> Iterator[str]:
    match = _STAR_STEP.fullmatch(column.text)
    name, size = column.field.name, column.field.high + 1
    if match is None or size % int(match[1]) == 0:
        return
    step = int(match[1])
    if step >= size:
        yield f"{name} {column.text} is only {name} 0: the step is not smaller than the field"
    else:
        last = (size - 1) // step * step
        yield (
            f"{name} {column.text} starts again at 0: from {last} to 0 it waits {size - last}, "
            f"not {step}; 'every {step}{name[0]}' keeps its period"
        )


def _about_short_months(text: ExpandedCron) -> Iterator[str]:
    first = (text.days.plain & -text.days.plain).bit_length()
    lacking = {29: {2}, 30: {2}, 31: {2, 4, 6, 9, 11}}[first] & text.months
    if lacking:
        which = "February outside leap years has" if first == 29 else "some months have"
        yield f"{which} no day {first}, so it does not run then; L is the last day of any month"


def _about_clock_changes(schedule: CronExpression, now: int) -> Iterator[str]:
    zone = schedule.zone
    for segment in range(zone.segment(now) + 1, len(zone.starts)):
        if zone.starts[segment] > now + _AHEAD_SECONDS:
            return
        closes = zone.starts[segment] + zone.offsets[segment - 1]
        opens = zone.starts[segment] + zone.offsets[segment]
        if opens > closes:
            yield from _about_gap(schedule, zone, closes, opens)
        else:
            yield from _about_repeat(schedule, zone, segment, opens, closes)


def _about_gap(schedule: CronExpression, zone: Zone, closes: int, opens: int) -> Iterator[str]:
    times = _nominal(schedule, closes, opens)
    if not times:
        return
    verb = "do not exist" if "," in times else "does not exist"
    lost = f"{times} {verb} on {_date(closes)} in {zone.name}"
    if zone.leaves_out(closes // DAY_SECONDS):
        yield f"{_date(closes)} does not exist in {zone.name}: no run"
    elif schedule.fixed_time:
        yield f"{lost}: runs at {_time(opens)}"
    elif _is_missed(schedule, closes, opens):
        yield f"{lost}: no run then"


def _is_missed(schedule: CronExpression, closes: int, opens: int) -> bool:
    """Return whether a clock change breaks a wildcard's rhythm.

    It does not if the job runs in every hour around the change.
    """
    hours = range(closes // 3600 - 1, opens // 3600 + 1)
    return not all(schedule.pattern.minutes >> (hour % 24 * 60) & ((1 << 60) - 1) for hour in hours)


def _about_repeat(
    schedule: CronExpression, zone: Zone, segment: int, opens: int, closes: int
) -> Iterator[str]:
    times = _nominal(schedule, opens, closes)
    if not times:
        return
    verb = "come" if "," in times else "comes"
    twice = f"{times} {verb} twice on {_date(opens)} in {zone.name}"
    if schedule.fixed_time:
        yield f"{twice}: runs at the first only (at {_offset(zone.offsets[segment - 1])})"
    elif _is_missed(schedule, opens, closes):
        yield f"{twice}: runs both times"


def _nominal(schedule: CronExpression, start: int, end: int) -> str:
    """Return the times of day that match within [start, end) of local time, as text."""
    times: list[str] = []
    found = schedule.pattern.next_local(start)
    while found is not None and found < end:
        if len(times) == _MOST_TIMES:
            return f"{', '.join(times)}..."
        times.append(_time(found))
        found = schedule.pattern.next_local(found + 1)
    return ", ".join(times)


def _time(local: int) -> str:
    minute, second = divmod(local % DAY_SECONDS, 60)
    clock = f"{minute // 60:02}:{minute % 60:02}"
    return f"{clock}:{second:02}" if second else clock


def _date(local: int) -> str:
    return local_iso(local // DAY_SECONDS * DAY_SECONDS * 1000, timezone="UTC")[:10]


def _offset(seconds: int) -> str:
    hours, minutes = divmod(abs(seconds) // 60, 60)
    return f"{'-' if seconds < 0 else '+'}{hours:02}:{minutes:02}"
