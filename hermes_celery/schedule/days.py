"""Compute the days of a month that a cron expression means, for every shape of a month.

The rule is that of Debian's crontab(5): a day matches if day-of-month *or* day-of-week matches; if
one of the two fields starts with `*`, both must match. An extension: both must also match if the
weekday field starts with `+`.
"""

from __future__ import annotations

import re

import msgspec

from hermes_celery.schedule.cron_fields import (
    DAY,
    WEEKDAY,
    Column,
    CronRange,
    expand,
    read_item,
    read_value,
)
from hermes_celery.schedule.months import FORMS, SHAPE_COUNT

#: The first day of each of five weeks.
_EVERY_WEEK = sum(1 << day for day in range(0, 31, 7))
_LAST = re.compile(r"l(?:-(\d+))?(w)?", re.ASCII)
_NEAREST = re.compile(r"(\d+)w|w(\d+)", re.ASCII)
_LAST_WEEKDAY = re.compile(r"(\w+?(?:-\w+?)?)l|l(\d)|(\w+(?:-\w+)?)#l", re.ASCII)
_NTH_WEEKDAY = re.compile(r"(\w+(?:-\w+)?)#(\w*)", re.ASCII)


class MonthDays(msgspec.Struct, frozen=True, kw_only=True):
    """The meaning of the day field."""

    #: Days by number: bit d is set for day d + 1.
    plain: int
    #: Days before the last: 0 for `L`, 3 for `L-3`.
    before_last: frozenset[int] = frozenset()
    #: `15W`: the day from Monday to Friday nearest to day 15, within the month.
    nearest: frozenset[int] = frozenset()
    #: `L-3W`: the day from Monday to Friday nearest to the third day before the last.
    nearest_before_last: frozenset[int] = frozenset()

    def mask(self, length: int, first: int) -> int:
        """Return the matching days of a month with `length` days that begins on `first`.

        Bit d is set for day d + 1.
        """
        days = {length - before for before in self.before_last if before < length}
        near = {day for day in self.nearest if day <= length}
        near |= {length - before for before in self.nearest_before_last if before < length}
        days |= {_nearest_weekday(day, length, first) for day in near}
        return self.plain & ((1 << length) - 1) | sum(1 << (day - 1) for day in days)


class WeekDays(msgspec.Struct, frozen=True, kw_only=True):
    """The meaning of the weekday field; Sunday is 0."""

    #: Weekdays of every week.
    plain: frozenset[int]
    #: `fri#2`: (weekday, its number within the month).
    nth: frozenset[tuple[int, int]] = frozenset()
    #: `5L`: the last Friday of the month.
    last: frozenset[int] = frozenset()

    def mask(self, length: int, first: int) -> int:
        """Return the matching days of a month with `length` days that begins on `first`.

        Bit d is set for day d + 1.
        """
        bits = 0
        for weekday in self.plain:
            bits |= _EVERY_WEEK << (weekday - first) % 7
        for weekday, number in self.nth:
            bits |= 1 << ((weekday - first) % 7 + 7 * number - 7)
        for weekday in self.last:
            # The last seven days contain each weekday once.
            bits |= 1 << (length - 1 - (first + length - 1 - weekday) % 7)
        return bits & ((1 << length) - 1)


def day_masks(
    days: MonthDays, weekdays: WeekDays, *, months: frozenset[int], either: bool
) -> tuple[int, ...]:
    """Return the matching days of each month shape (see `months.MONTH_SHAPES`)."""
    masks = [0] * SHAPE_COUNT
    for form, (month, length) in enumerate(FORMS):
        for first in range(7) if month in months else ():
            by_day, by_weekday = days.mask(length, first), weekdays.mask(length, first)
            masks[form * 7 + first] = by_day | by_weekday if either else by_day & by_weekday
    return tuple(masks)


def _nearest_weekday(day: int, length: int, first: int) -> int:
    weekday = (first + day - 1) % 7
    if weekday == 6:
        return day - 1 if day > 1 else day + 2
    if weekday == 0:
        return day + 1 if day < length else day - 2
    return day


def read_month_days(column: Column, items: list[str]) -> MonthDays:
    """Read the items of a day field. Raises ScheduleError."""
    plain: list[CronRange] = []
    special: dict[str, set[int]] = {"before_last": set(), "nearest": set(), "near_last": set()}
    for text in items:
        if match := _LAST.fullmatch(text):
            before = int(match[1] or 0)
            if before >= DAY.high:
                column.fail(f"{text.upper()} goes back {before} days; a month has at most 31")
            special["near_last" if match[2] else "before_last"].add(before)
        elif match := _NEAREST.fullmatch(text):
            special["nearest"].add(read_value(column, match[1] or match[2]))
        else:
            plain.append(read_item(column, _without_w(column, text)))
    return MonthDays(
        plain=sum(1 << (day - 1) for day in expand(column, plain)),
        before_last=frozenset(special["before_last"]),
        nearest=frozenset(special["nearest"]),
        nearest_before_last=frozenset(special["near_last"]),
    )


def _without_w(column: Column, text: str) -> str:
    if text.endswith("w") and "-" in text:
        column.fail(f"{column.quote(text)} has W on a range; use it on single days, as in 10W,15W")
    return text


def read_weekdays(column: Column, items: list[str]) -> WeekDays:
    """Read the items of a weekday field. Raises ScheduleError."""
    plain: list[CronRange] = []
    nth: set[tuple[int, int]] = set()
    last: set[int] = set()
    for text in items:
        if text == "l":
            column.fail("'L' needs a weekday: 5L or friL is the month's last Friday")
        if text not in WEEKDAY.names and (match := _LAST_WEEKDAY.fullmatch(text)):
            last |= _weekdays(column, match[1] or match[2] or match[3])
        elif match := _NTH_WEEKDAY.fullmatch(text):
            nth |= {(day, _ordinal(column, match[2])) for day in _weekdays(column, match[1])}
        else:
            plain.append(read_item(column, text))
    return WeekDays(plain=expand(column, plain), nth=frozenset(nth), last=frozenset(last))


def _weekdays(column: Column, text: str) -> frozenset[int]:
    return expand(column, [read_item(column, text)])


def _ordinal(column: Column, text: str) -> int:
    if text not in ("1", "2", "3", "4", "5"):
        column.fail(f"'#{text}' is not one of #1 to #5 or #L")
    return int(text)
