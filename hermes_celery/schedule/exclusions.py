"""Times at which a schedule must not occur, as blocks of local seconds."""

from __future__ import annotations

import re
from datetime import UTC
from typing import Final

import msgspec

from hermes_celery.errors import ScheduleError, shown
from hermes_celery.instant import to_ms
from hermes_celery.schedule.compiling import compile_cron
from hermes_celery.schedule.moments import looks_like_moment, moment_ms, read_moment
from hermes_celery.schedule.months import DAY_MINUTES, DAY_SECONDS
from hermes_celery.schedule.pattern import Pattern
from hermes_celery.schedule.time_zones import find_zone

_ALL_DAY: Final = (1 << DAY_MINUTES) - 1
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class Exclusion(msgspec.Struct, frozen=True, kw_only=True):
    """Local times that are left out."""

    text: str

    def block(self, local: int) -> tuple[int, int] | None:
        """Return the excluded local seconds [from, to) around a local second; None if allowed."""
        raise NotImplementedError


class ExcludedSpan(Exclusion, frozen=True, kw_only=True):
    """Excluded dates, or one excluded minute."""

    start: int
    end: int

    def block(self, local: int) -> tuple[int, int] | None:
        """Return the whole span if it contains the second."""
        return (self.start, self.end) if self.start <= local < self.end else None


class ExcludedPattern(Exclusion, frozen=True, kw_only=True):
    """The minutes that a cron expression matches, each excluded as a whole."""

    pattern: Pattern

    def block(self, local: int) -> tuple[int, int] | None:
        """Return the consecutive excluded minutes around the second, within its day."""
        day, second = divmod(local, DAY_SECONDS)
        minute, minutes = second // 60, self.pattern.minutes
        if not (minutes >> minute & 1 and self.pattern.matches_day(day)):
            return None
        allowed_after = (~minutes & _ALL_DAY) >> minute
        allowed_before = ~minutes & ((1 << minute) - 1)
        end = minute + _lowest(allowed_after) if allowed_after else DAY_MINUTES
        return day * DAY_SECONDS + allowed_before.bit_length() * 60, day * DAY_SECONDS + end * 60


def read_exclusion(text: str, *, timezone: str) -> Exclusion:
    """Read a five-field cron expression, a date, an ISO time (its minute), or `date..date`.

    A span includes its last day. Raises ScheduleError.
    """
    text = " ".join(text.split())
    first, dots, last = (part.strip() for part in text.partition(".."))
    if dots:
        return _span(text, first, last)
    if _DATE.fullmatch(text):
        return _span(text, text, text)
    if looks_like_moment(text):
        return _minute(text, timezone)
    if len(text.split()) != 5:
        raise ScheduleError(
            f"{shown(text)} is not an exclusion; use a cron expression of five fields such as "
            "'* * 24-26 12 *', a date such as '2027-12-24', or '2027-12-24..2027-12-26'"
        )
    return ExcludedPattern(text=text, pattern=compile_cron(text).pattern)


def _span(text: str, first: str, last: str) -> ExcludedSpan:
    if not (_DATE.fullmatch(first) and _DATE.fullmatch(last)):
        raise ScheduleError(f"{shown(text)} is not a span of dates; write 2027-12-24..2027-12-26")
    start, end = _date_second(first), _date_second(last) + DAY_SECONDS
    if end <= start:
        raise ScheduleError(f"{shown(text)} ends before it begins")
    return ExcludedSpan(text=text, start=start, end=end)


def _date_second(text: str) -> int:
    return to_ms(read_moment(text).replace(tzinfo=UTC)) // 1000


def _minute(text: str, timezone: str) -> ExcludedSpan:
    second = moment_ms(read_moment(text), timezone=timezone) // 1000
    local = second + find_zone(timezone).offset(second)
    return ExcludedSpan(text=text, start=local // 60 * 60, end=local // 60 * 60 + 60)


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1
