"""Read phrases for schedules by the local clock: `every monday 9am`, `daily at noon`.

A phrase consists of days and times, and becomes cron expressions. An ambiguous phrase is refused
with examples; nothing is guessed.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from hermes_celery.errors import ScheduleError

_EXAMPLES: Final = (
    "use for example 'every monday 9am', 'weekdays at 9am', 'daily at noon', 'every 30m', "
    "'in 45m', '0 9 * * 1-5' or '2027-03-28T14:00'"
)
_WEEKDAYS: Final = {
    spelling: number
    for number, spellings in enumerate(
        (
            "sunday sundays sun",
            "monday mondays mon",
            "tuesday tuesdays tue tues",
            "wednesday wednesdays wed",
            "thursday thursdays thu thur thurs",
            "friday fridays fri",
            "saturday saturdays sat",
        )
    )
    for spelling in spellings.split()
}
_GROUPS: Final = {
    "day": "*",
    "daily": "*",
    "everyday": "*",
    "weekday": "1-5",
    "weekdays": "1-5",
    "weekend": "0,6",
    "weekends": "0,6",
}
_STARTS: Final = frozenset(
    {"every", "each", "in", "at", "on", "hourly", "weekly", "monthly", "yearly", "tomorrow"}
    | {"today", "tonight", "noon", "midnight", *_WEEKDAYS, *_GROUPS}
)
_TIME: Final = re.compile(r"(\d{1,2})(?::(\d{2}))?\s?(am|pm)?", re.ASCII)
_TIME_WORDS: Final = {"noon": (12, 0), "midnight": (0, 0)}
#: Days, then times; `at` may stand between them.
_DAYS_TIMES: Final = re.compile(
    r"(?:(?:every|each|on)\s+)*(?P<days>[a-z]+(?:(?:\s*,\s*|\s+)(?!at\b|noon\b|midnight\b)[a-z]+)*)"
    r"(?P<at>\s+at\b|,?\s+(?=\d|noon|midnight))\s*(?P<times>.+)",
    re.ASCII,
)
_PERIOD_AT_TIME: Final = re.compile(r"(?:every|each)\s+\d+\s*[a-z]+.*\sat\b", re.ASCII)
_SEPARATOR: Final = re.compile(r"\s*(?:,|\band\b|&)\s*(?:and\s+)?", re.ASCII)


class _Time(msgspec.Struct, frozen=True, kw_only=True):
    hour: int
    minute: int


def starts_like_a_phrase(text: str) -> bool:
    """Return whether the first word of a lower-case text is one that begins a phrase."""
    return re.split(r"[\s,]", text, maxsplit=1)[0] in _STARTS


def refuse(text: object, fault: str = "is not a schedule") -> ScheduleError:
    """Return the error for an invalid text."""
    return ScheduleError(f"{text!r} {fault}; {_EXAMPLES}")


def cron_of(text: str) -> tuple[str, ...]:
    """Return the cron expressions of a phrase, one for each minute past the hour that it names.

    Raises ScheduleError with examples if the phrase is unknown or ambiguous.
    """
    lowered = _daily(" ".join(text.lower().split()))
    if _PERIOD_AT_TIME.match(lowered):
        raise refuse(text, "mixes a period with a time of day; give one of them")
    match = _DAYS_TIMES.fullmatch(lowered)
    if match is None:
        raise _without_time(text, lowered)
    weekday = _days(text, match["days"])
    times = _times(text, match["times"], after_at="at" in match["at"])
    return tuple(
        f"{minute} {','.join(str(time.hour) for time in times if time.minute == minute)} "
        f"* * {weekday}"
        for minute in sorted({time.minute for time in times})
    )


def _daily(lowered: str) -> str:
    # Users of Hermes write `every 1d at 09:00` for `daily at 09:00`.
    return re.sub(r"^every (?:1\s?d|1 ?day|24 ?h(?:ours)?)(?= at\b)", "daily", lowered)


def _without_time(text: str, lowered: str) -> ScheduleError:
    words = re.sub(r"^(?:every|each|on)\s+", "", lowered)
    days = [word for word in _SEPARATOR.split(words) if word]
    if days and all(day in _WEEKDAYS or day in _GROUPS for day in days):
        return refuse(text, "names no time of day")
    return refuse(text)


def _days(text: str, words: str) -> str:
    """Return the weekday field for `monday`, `mon, wed`, `weekdays` or `day`."""
    days = [word for word in _SEPARATOR.split(words) if word]
    if len(days) == 1 and days[0] in _GROUPS:
        return _GROUPS[days[0]]
    numbers = []
    for day in days:
        if day not in _WEEKDAYS:
            raise refuse(text, f"names {day!r}, which is not a day of the week")
        numbers.append(_WEEKDAYS[day])
    if not numbers or len(set(numbers)) < len(numbers):
        raise refuse(text, "names a day twice")
    return ",".join(str(number) for number in sorted(numbers))


def _times(text: str, words: str, *, after_at: bool) -> list[_Time]:
    """Return the times of day in order, and refuse duplicates."""
    times = [
        _time(text, word.removeprefix("at "), after_at=after_at) for word in _SEPARATOR.split(words)
    ]
    unique = {(time.hour, time.minute): time for time in times}
    if len(unique) < len(times):
        raise refuse(text, "names a time twice")
    return [unique[key] for key in sorted(unique)]


def _time(text: str, word: str, *, after_at: bool) -> _Time:
    if word in _TIME_WORDS:
        hour, minute = _TIME_WORDS[word]
        return _Time(hour=hour, minute=minute)
    match = _TIME.fullmatch(word)
    if match is None:
        raise refuse(text, f"has {word!r} where a time of day should be")
    hour, minute, half = int(match[1]), int(match[2] or 0), match[3]
    if half is None and match[2] is None and not after_at:
        raise refuse(text, f"does not say what {word!r} is ('at {word}' is a time)")
    if minute > 59 or not (1 <= hour <= 12 if half else hour <= 23):
        raise refuse(text, f"has {word!r}, which is not a time of day")
    if half:
        hour = hour % 12 + (12 if half == "pm" else 0)
    return _Time(hour=hour, minute=minute)
