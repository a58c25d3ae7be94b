"""Compile a cron expression: read and check its fields, then make its pattern."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from hermes_celery.errors import ScheduleError
from hermes_celery.schedule.cron_fields import Column, columns, expand, order, read_item
from hermes_celery.schedule.days import (
    MonthDays,
    WeekDays,
    day_masks,
    read_month_days,
    read_weekdays,
)
from hermes_celery.schedule.pattern import Pattern


class ExpandedCron(msgspec.Struct, frozen=True, kw_only=True):
    """A cron expression with its fields expanded."""

    fields: tuple[Column, ...]
    minutes: frozenset[int]
    hours: frozenset[int]
    days: MonthDays
    months: frozenset[int]
    weekdays: WeekDays
    #: Second 0 alone if the expression has no field of seconds.
    seconds: frozenset[int]
    #: None if the expression has no field of years.
    years: frozenset[int] | None
    #: Whether the weekday is written with `+`: `1-7 * +sat` is the month's first Saturday.
    both: bool = False

    @property
    def either(self) -> bool:
        """True if a matching day or weekday is enough; if one starts with `*`, both must match.

        This is crontab(5)'s rule.
        """
        stars = self.fields[2].starts_with_star or self.fields[4].starts_with_star
        return not (self.both or stars)

    @property
    def fixed_time(self) -> bool:
        """True if cron(8) treats it as a job at a fixed time; see `time_zones.py`."""
        return not (self.fields[0].starts_with_star or self.fields[1].starts_with_star)


class CompiledCron(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of an expression that a schedule needs."""

    pattern: Pattern
    fixed_time: bool


def read_text(expression: str) -> ExpandedCron:
    """Read an expression of five to seven fields. Raises ScheduleError."""
    fields = columns(expression)
    both = fields[4].text.startswith("+")
    if both:
        fields = (*fields[:4], _without_plus(fields[4]), *fields[5:])
    minute, hour, day, month, weekday = fields[:5]
    return ExpandedCron(
        fields=fields,
        minutes=_values(minute),
        hours=_values(hour),
        days=read_month_days(day, day.items()),
        months=_values(month),
        weekdays=read_weekdays(weekday, weekday.items()),
        seconds=_values(fields[5]) if len(fields) > 5 else frozenset({0}),
        years=_values(fields[6]) if len(fields) > 6 else None,
        both=both,
    )


# A compiled expression takes about 6 kB and 0.2 ms; jobs with the same text share it.
@lru_cache(maxsize=4096)
def compile_cron(expression: str) -> CompiledCron:
    """Compile an expression of five to seven fields, without `H`.

    Raises ScheduleError if it is invalid or can never run.
    """
    text = read_text(expression)
    minutes = sum(_bits(text.minutes) << (hour * 60) for hour in text.hours)
    seconds = _bits(text.seconds)
    pattern = Pattern(
        minutes=minutes,
        seconds=seconds,
        days=day_masks(text.days, text.weekdays, months=text.months, either=text.either),
        years=text.years,
        first=_lowest(minutes) * 60 + _lowest(seconds),
        last=(minutes.bit_length() - 1) * 60 + seconds.bit_length() - 1,
    )
    _refuse_never(pattern, text.fields)
    return CompiledCron(pattern=pattern, fixed_time=text.fixed_time)


def _without_plus(weekday: Column) -> Column:
    if len(weekday.text) == 1:
        weekday.fail("has '+' but no weekday after it; with '+sat' the day must also be a Saturday")
    return msgspec.structs.replace(weekday, text=weekday.text[1:])


def _values(column: Column) -> frozenset[int]:
    return expand(column, [read_item(column, text) for text in column.items()])


def _bits(values: frozenset[int]) -> int:
    return sum(1 << value for value in values)


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def _refuse_never(pattern: Pattern, fields: tuple[Column, ...]) -> None:
    first = pattern.next_local(0)
    if first is None:
        day, month, weekday = (column.text for column in fields[2:5])
        within = f" within year {fields[6].text}" if len(fields) > 6 else ""
        raise ScheduleError(
            f"{fields[0].expression!r} can never run: there is no day {day} in month {month}"
            f"{'' if weekday in '*?' else f' on weekday {weekday}'}{within} "
            f"(fields: {order(len(fields))})"
        )
