"""Durations as people write them: `30m`, `1h30m`, `90s`, `2w`, `1 hour 30 minutes`."""

from __future__ import annotations

import re
from typing import Final

from hermes_celery.errors import ScheduleError

#: Seconds in each unit, the longest first.
_UNITS: Final = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_SPELLINGS: Final = {
    spelling: unit
    for unit, spellings in {
        "w": "w wk wks week weeks",
        "d": "d day days",
        "h": "h hr hrs hour hours",
        "m": "m min mins minute minutes",
        "s": "s sec secs second seconds",
    }.items()
    for spelling in spellings.split()
}
_WORDS: Final = {"w": "week", "d": "day", "h": "hour", "m": "minute", "s": "second"}
_LONGEST_SECONDS: Final = 100 * 366 * 86_400
_PART = r"(\d+)\s*([a-z]+)"
_DURATION = re.compile(rf"{_PART}(?:(?:\s|,|\band\b)*{_PART})*", re.ASCII)
_EXAMPLES: Final = "use for example 30m, 1h30m, 90s, 2 days or 1w"


def is_duration(text: str) -> bool:
    """Whether a lower-case text is made like a duration, be its units known or not."""
    return text in _SPELLINGS or _DURATION.fullmatch(text) is not None


def read_duration(text: str) -> int:
    """A duration in whole seconds; a unit alone counts as one of it.

    Raises ScheduleError for unknown, repeated or unordered units, for zero, and beyond a century.
    """
    lowered = text.strip().lower()
    if lowered in _SPELLINGS:
        return _UNITS[_SPELLINGS[lowered]]
    if _DURATION.fullmatch(lowered) is None:
        raise ScheduleError(f"{text!r} is not a duration; {_EXAMPLES}")
    parts = [(int(number), _unit(text, unit)) for number, unit in re.findall(_PART, lowered)]
    sizes = [_UNITS[unit] for _, unit in parts]
    if sizes != sorted(set(sizes), reverse=True):
        raise ScheduleError(f"{text!r} must name each unit once, the longest first; {_EXAMPLES}")
    seconds = sum(number * _UNITS[unit] for number, unit in parts)
    if not 0 < seconds <= _LONGEST_SECONDS:
        fault = "longer than a century" if seconds else "no time at all"
        raise ScheduleError(f"{text!r} is {fault}; {_EXAMPLES}")
    return seconds


def duration_text(seconds: int) -> str:
    """The shortest usual way to write a duration: `1h30m`, `90s` becomes `1m30s`."""
    text = ""
    for unit, size in _UNITS.items():
        count, seconds = divmod(seconds, size)
        if count:
            text += f"{count}{unit}"
    return text


def duration_words(seconds: int) -> str:
    """A duration in words: `1 hour 30 minutes`; `hour` where there is just one."""
    parts = []
    for unit, size in _UNITS.items():
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {_WORDS[unit]}{'s' if count > 1 else ''}")
    words = " ".join(parts)
    return words.removeprefix("1 ") if len(parts) == 1 else words


def _unit(text: str, spelling: str) -> str:
    if spelling not in _SPELLINGS:
        raise ScheduleError(f"{text!r}: {spelling!r} is no unit of time; {_EXAMPLES}")
    return _SPELLINGS[spelling]
