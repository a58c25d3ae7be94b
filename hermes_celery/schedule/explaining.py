"""Explain a schedule in words.

cron-descriptor words the times of day, from fields that are already read and unambiguous. This
module words the days: cron-descriptor drops what it does not know (`1W,15W`), and does not
distinguish "or" from "and" between day and weekday.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final

from hermes_celery.schedule.bounds import Bounded, Excluding, Jittered
from hermes_celery.schedule.compiling import ExpandedCron, read_text
from hermes_celery.schedule.cron_expression import CronExpression
from hermes_celery.schedule.cron_fields import (
    HOUR,
    MINUTE,
    MONTH_NAMES,
    SECOND,
    WEEKDAY_NAMES,
    CronField,
)
from hermes_celery.schedule.days import MonthDays, WeekDays
from hermes_celery.schedule.delayed import Delayed
from hermes_celery.schedule.durations import duration_words
from hermes_celery.schedule.interval import Interval
from hermes_celery.schedule.moments import local_iso
from hermes_celery.schedule.months import DAY_MINUTES
from hermes_celery.schedule.once import Once
from hermes_celery.schedule.pattern import Pattern
from hermes_celery.schedule.schedule import Explanation, Schedule, instant_ms
from hermes_celery.schedule.union import UnionSchedule
from hermes_celery.schedule.warnings import warnings_of

_WEEKDAYS: Final = [name.title() for name in WEEKDAY_NAMES]
_MONTHS: Final = [name.title() for name in MONTH_NAMES]
_ORDINALS: Final = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth"}
# Up to this number of times of day are listed one by one; more are worded by their rule.
_MOST_TIMES: Final = 6


def explain(schedule: Schedule, *, now: datetime | None = None) -> Explanation:
    """Explain a schedule; `now` (aware) puts dates on the warnings about clock changes."""
    return Explanation(
        words=words_of(schedule),
        normal_form=schedule.text,
        timezone=schedule.timezone,
        warnings=warnings_of(schedule, now_ms=None if now is None else instant_ms(now)),
    )


def words_of(schedule: Schedule) -> str:
    """Return one sentence without its full stop."""
    match schedule:
        case CronExpression():
            return _cron_words(schedule)
        case Interval():
            anchor = local_iso(schedule.anchor_ms, timezone=schedule.timezone)
            every = duration_words(schedule.period_ms)
            return f"Every {every}, counted from {anchor}"
        case Once():
            return f"Once, at {schedule.text}"
        case UnionSchedule():
            first, *more = (words_of(part) for part in schedule.parts)
            return "; and ".join([first, *(f"{words[0].lower()}{words[1:]}" for words in more)])
        case Delayed():
            later = duration_words(schedule.delay_ms)
            counted = later if later[0].isdecimal() else f"1 {later}"
            return f"{words_of(schedule.inner)}, {counted} later"
        case Excluding() | Bounded() | Jittered():
            return f"{words_of(schedule.inner)}, {_restriction(schedule)}"
    raise AssertionError(f"no words for {schedule!r}")


def _restriction(schedule: Excluding | Bounded | Jittered) -> str:
    if isinstance(schedule, Excluding):
        return f"except {_listed([exclusion.text for exclusion in schedule.exclusions])}"
    if isinstance(schedule, Jittered):
        return f"delayed by up to {duration_words(schedule.jitter_seconds * 1000)}"
    words = []
    if schedule.start_ms is not None:
        words.append(f"from {local_iso(schedule.start_ms, timezone=schedule.timezone)}")
    if schedule.end_ms is not None:
        words.append(f"until {local_iso(schedule.end_ms, timezone=schedule.timezone)}")
    return " ".join(words)


def _cron_words(schedule: CronExpression) -> str:
    text = read_text(schedule.expression)
    parts = [
        _time_words(text, schedule.pattern),
        _day_words(text.days, text.weekdays, either=text.either),
        _month_words(text.months),
    ]
    if text.years is not None:
        parts.append(f"in {_runs(sorted(text.years), str)}")
    return ", ".join(part for part in parts if part)


def _time_words(text: ExpandedCron, pattern: Pattern) -> str:
    times = pattern.minutes.bit_count() * pattern.seconds.bit_count()
    if times <= _MOST_TIMES:
        return f"At {_listed(_times_of_day(pattern))}"
    return _descriptor_words(text)


def _times_of_day(pattern: Pattern) -> list[str]:
    minutes = [minute for minute in range(DAY_MINUTES) if pattern.minutes >> minute & 1]
    seconds = [second for second in range(60) if pattern.seconds >> second & 1]
    clock = [f"{minute // 60:02}:{minute % 60:02}" for minute in minutes]
    if seconds == [0]:
        return clock
    return [f"{time}:{second:02}" for time in clock for second in seconds]


def _descriptor_words(text: ExpandedCron) -> str:
    from cron_descriptor import ExpressionDescriptor, Options  # 25 ms: only for explanations

    # Version 1, which django-celery-beat needs, takes these as attributes only.
    options = Options()
    options.use_24hour_time_format = True
    options.locale_code = "en_US"
    seconds = "" if text.seconds == {0} else f"{_plain(SECOND, text.seconds)} "
    fields = f"{seconds}{_plain(MINUTE, text.minutes)} {_plain(HOUR, text.hours)} * * *"
    return str(ExpressionDescriptor(fields, options).get_description())


def _plain(field: CronField, values: Iterable[int]) -> str:
    """Write a field unambiguously: `*`, `*/n` if n divides the field, else values and ranges."""
    numbers = sorted(values)
    size = field.high + 1
    if len(numbers) == size:
        return "*"
    step = size // len(numbers)
    if len(numbers) > 1 and numbers == list(range(0, size, step)):
        return f"*/{step}"
    return ",".join(
        str(low) if low == high else f"{low}-{high}" for low, high in _consecutive(numbers)
    )


def _day_words(days: MonthDays, weekdays: WeekDays, *, either: bool) -> str:
    by_day, by_weekday = _month_day_words(days), _weekday_words(weekdays)
    if either:
        return f"{by_day} or {by_weekday}" if by_day and by_weekday else "every day"
    if by_day and by_weekday:
        which = by_weekday.removeprefix("on ").replace(" and ", " or ")
        return f"{by_day} if that is {which}"
    return by_day or by_weekday or ""


def _month_day_words(days: MonthDays) -> str:
    """Return the days of the month in words; empty if every day matches."""
    numbers = [day for day in range(1, 32) if days.plain >> (day - 1) & 1]
    if len(numbers) == 31:
        return ""
    parts = [f"day {_runs(numbers, str)} of the month"] if numbers else []
    parts += [_before_last(before) for before in sorted(days.before_last)]
    parts += [f"the weekday nearest to day {day} of the month" for day in sorted(days.nearest)]
    parts += [
        "the last weekday of the month"
        if before == 0
        else f"the weekday nearest to {_before_last(before)}"
        for before in sorted(days.nearest_before_last)
    ]
    return f"on {_listed(parts)}"


def _before_last(before: int) -> str:
    if before == 0:
        return "the last day of the month"
    return f"the day {before} {'day' if before == 1 else 'days'} before the last of the month"


def _weekday_words(weekdays: WeekDays) -> str:
    """Return the weekdays in words; empty if every weekday matches."""
    if len(weekdays.plain) == 7:
        return ""
    parts = []
    if weekdays.plain:
        # The words of a week begin with Monday: `Monday to Friday and Sunday`.
        numbers = sorted((day - 1) % 7 for day in weekdays.plain)
        parts.append(_runs(numbers, lambda day: _WEEKDAYS[(day + 1) % 7]))
    parts += [
        f"the {_ORDINALS[number]} {_WEEKDAYS[day]} of the month"
        for day, number in sorted(weekdays.nth)
    ]
    parts += [f"the last {_WEEKDAYS[day]} of the month" for day in sorted(weekdays.last)]
    return f"on {_listed(parts)}"


def _month_words(months: frozenset[int]) -> str:
    if len(months) == 12:
        return ""
    return f"in {_runs(sorted(months), lambda month: _MONTHS[month - 1])}"


def _runs(numbers: Sequence[int], name: Callable[[int], str]) -> str:
    """Return numbers by name, three or more consecutive ones as `first to last`."""
    words = []
    for low, high in _consecutive(numbers):
        if high - low >= 2:
            words.append(f"{name(low)} to {name(high)}")
        else:
            words += [name(number) for number in range(low, high + 1)]
    return _listed(words)


def _consecutive(numbers: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _listed(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
