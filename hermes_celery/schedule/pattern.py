"""A cron expression as bit sets, and the search for the next matching local second.

Local time is a plain count of seconds, as if every day had 86,400 of them; `time_zones.py` maps it
to instants. Every search ends with the tables of `months.py`.
"""

from __future__ import annotations

from bisect import bisect_right

import msgspec

from hermes_celery.schedule.months import (
    DAY_SECONDS,
    END_DAY,
    FIRST_YEAR,
    MONTH_COUNT,
    MONTH_SHAPES,
    MONTH_STARTS,
)


class Pattern(msgspec.Struct, frozen=True, kw_only=True):
    """The local seconds that match."""

    #: Bit m is set when minute m of the day (0-1439) matches.
    minutes: int
    #: Bit s is set when second s of a minute matches; 1 for expressions without seconds.
    seconds: int
    #: Per month shape (see `MONTH_SHAPES`): bit d is set when day d + 1 matches.
    days: tuple[int, ...]
    #: The years that match; None for all.
    years: frozenset[int] | None
    #: First and last matching second of a matching day.
    first: int
    last: int

    def next_local(self, second: int) -> int | None:
        """Return the first match at or after a local second; None if there is none before 2100."""
        day, second_of_day = divmod(second, DAY_SECONDS)
        if day >= END_DAY:
            return None
        month = bisect_right(MONTH_STARTS, day) - 1
        if month < 0:
            return self.next_local(MONTH_STARTS[0] * DAY_SECONDS)
        days = 0
        if self.years is None or month // 12 + FIRST_YEAR in self.years:
            days = self.days[MONTH_SHAPES[month]] >> (day - MONTH_STARTS[month])
        if days & 1:
            found = self._next_in_day(second_of_day)
            if found >= 0:
                return day * DAY_SECONDS + found
        days >>= 1
        if days:
            return (day + (days & -days).bit_length()) * DAY_SECONDS + self.first
        return self._first_in_months(month + 1)

    def previous_local(self, second: int) -> int | None:
        """Return the last match at or before a local second; None if there is none since 1969."""
        day, second_of_day = divmod(second, DAY_SECONDS)
        month = bisect_right(MONTH_STARTS, day) - 1
        if month < 0:
            return None
        if month >= MONTH_COUNT:
            return self._last_in_months(MONTH_COUNT - 1)
        days = self._days_in(month) & ((2 << (day - MONTH_STARTS[month])) - 1)
        if days >> (day - MONTH_STARTS[month]):
            found = self._previous_in_day(second_of_day)
            if found >= 0:
                return day * DAY_SECONDS + found
            days ^= 1 << (day - MONTH_STARTS[month])
        if days:
            day = MONTH_STARTS[month] + days.bit_length() - 1
            return day * DAY_SECONDS + self.last
        return self._last_in_months(month - 1)

    def matches_day(self, day: int) -> bool:
        """Return whether a local day (counted from 1970-01-01) matches."""
        month = bisect_right(MONTH_STARTS, day) - 1
        if not 0 <= month < MONTH_COUNT:
            return False
        return bool(self._days_in(month) >> (day - MONTH_STARTS[month]) & 1)

    def matches(self, second: int) -> bool:
        """Return whether a local second matches."""
        day, second_of_day = divmod(second, DAY_SECONDS)
        minute, second_of_minute = divmod(second_of_day, 60)
        return bool(
            self.minutes >> minute & 1
            and self.seconds >> second_of_minute & 1
            and self.matches_day(day)
        )

    def _days_in(self, month: int) -> int:
        if self.years is not None and month // 12 + FIRST_YEAR not in self.years:
            return 0
        return self.days[MONTH_SHAPES[month]]

    def _next_in_day(self, second_of_day: int) -> int:
        minute, second = divmod(second_of_day, 60)
        minutes = self.minutes >> minute
        if minutes & 1:
            seconds = self.seconds >> second
            if seconds:
                return second_of_day + (seconds & -seconds).bit_length() - 1
            minutes -= 1
        if not minutes:
            return -1
        minute += (minutes & -minutes).bit_length() - 1
        return minute * 60 + self.first % 60

    def _previous_in_day(self, second_of_day: int) -> int:
        minute, second = divmod(second_of_day, 60)
        if self.minutes >> minute & 1:
            seconds = self.seconds & ((2 << second) - 1)
            if seconds:
                return minute * 60 + seconds.bit_length() - 1
        minutes = self.minutes & ((1 << minute) - 1)
        if not minutes:
            return -1
        return (minutes.bit_length() - 1) * 60 + self.last % 60

    def _first_in_months(self, month: int) -> int | None:
        while month < MONTH_COUNT:
            days = self._days_in(month)
            if days:
                day = MONTH_STARTS[month] + (days & -days).bit_length() - 1
                return day * DAY_SECONDS + self.first
            month += 1
        return None

    def _last_in_months(self, month: int) -> int | None:
        while month >= 0:
            days = self._days_in(month)
            if days:
                day = MONTH_STARTS[month] + days.bit_length() - 1
                return day * DAY_SECONDS + self.last
            month -= 1
        return None
