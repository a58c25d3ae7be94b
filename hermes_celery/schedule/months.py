"""The Gregorian calendar as tables of whole numbers, so that no search needs `date` objects.

Days are counted from 1970-01-01, months from January of `FIRST_YEAR`. The tables end with
`LAST_YEAR`, which bounds every search in this package.
"""

from __future__ import annotations

from typing import Final

DAY_SECONDS: Final = 86_400
DAY_MINUTES: Final = 1_440

# One year more on both sides than croniter's year field allows, because local days begin before
# and end after days in UTC.
FIRST_YEAR: Final = 1969
LAST_YEAR: Final = 2100

#: No instant at or after this Unix time (2100-01-01T00:00Z) is ever returned.
HORIZON_SECONDS: Final = 4_102_444_800

_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
# 1969-01-01 was a Wednesday, 365 days before the Unix epoch.
_FIRST_DAY, _FIRST_WEEKDAY = -365, 3

#: The forms of a month: (month 1-12, number of days). Index 12 is February in leap years.
FORMS: Final = (*((month, length) for month, length in enumerate(_LENGTHS, 1)), (2, 29))


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _tables() -> tuple[tuple[int, ...], bytes]:
    starts, shapes = [], bytearray()
    day, weekday = _FIRST_DAY, _FIRST_WEEKDAY
    for year in range(FIRST_YEAR, LAST_YEAR + 1):
        for month in range(12):
            form = 12 if month == 1 and _is_leap(year) else month
            starts.append(day)
            shapes.append(form * 7 + weekday)
            day += FORMS[form][1]
            weekday = (weekday + FORMS[form][1]) % 7
    starts.append(day)
    return tuple(starts), bytes(shapes)


#: MONTH_STARTS[m] is the first day of month m; an additional entry closes the last month.
#: MONTH_SHAPES[m] is form * 7 + weekday of the first day (0 = Sunday); there are 91 shapes.
MONTH_STARTS, MONTH_SHAPES = _tables()
SHAPE_COUNT: Final = len(FORMS) * 7
MONTH_COUNT: Final = len(MONTH_SHAPES)
END_DAY: Final = MONTH_STARTS[-1]
