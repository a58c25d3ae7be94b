"""Read and write durations as people write them: `30m`, `1h30m`, `0.5s`, `1 hour 30 minutes`."""

from __future__ import annotations

import re
from typing import Final

from hermes_celery.errors import ScheduleError, shown

#: Milliseconds in each unit, the longest first.
_UNITS: Final = {
    "w": 604_800_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1_000,
}
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
_LONGEST_MS: Final = 100 * 366 * 86_400_000
#: Ten runs of a job per second; a schedule is the wrong tool for more.
_SHORTEST_MS: Final = 100
_PART = r"(\d+(?:\.\d+)?)\s*([a-z]+)"
_DURATION = re.compile(rf"{_PART}(?:(?:\s|,|\band\b)*{_PART})*", re.ASCII)
_EXAMPLES: Final = "use for example 30m, 1h30m, 90s, 0.5s, 2 days or 1w"


def is_duration(text: str) -> bool:
    """Return whether a lower-case text has the form of a duration, even with unknown units."""
    return text in _SPELLINGS or _DURATION.fullmatch(text) is not None


def read_duration_ms(text: str) -> int:
    """Return a duration in milliseconds.

    A unit alone means one of it. Seconds may have a fraction. Raises ScheduleError for unknown,
    repeated or unordered units, and for less than 0.1 s or more than a century.
    """
    lowered = text.strip().lower()
    if lowered in _SPELLINGS:
        return _UNITS[_SPELLINGS[lowered]]
    if _DURATION.fullmatch(lowered) is None:
        raise ScheduleError(f"{shown(text)} is not a duration; {_EXAMPLES}")
    parts = [(number, _unit(text, unit)) for number, unit in re.findall(_PART, lowered)]
    sizes = [_UNITS[unit] for _, unit in parts]
    if sizes != sorted(set(sizes), reverse=True):
        raise ScheduleError(
            f"{shown(text)} must name each unit once, the longest first; {_EXAMPLES}"
        )
    ms = sum(_part_ms(text, number, unit) for number, unit in parts)
    if not _SHORTEST_MS <= ms <= _LONGEST_MS:
        short = f"shorter than {_SHORTEST_MS / 1000:g} s" if ms else "zero"
        raise ScheduleError(
            f"{shown(text)} is {'longer than a century' if ms > _LONGEST_MS else short}; "
            f"{_EXAMPLES}"
        )
    return ms


def duration_text(ms: int) -> str:
    """Return the shortest usual text for a duration: `1h30m`; 90 seconds are `1m30s`."""
    return "".join(f"{count}{unit}" for count, unit in _counts(ms))


def duration_words(ms: int) -> str:
    """Return a duration in words: `1 hour 30 minutes`, and `hour` for exactly one unit."""
    parts = [f"{count} {_WORDS[unit]}{'' if count == '1' else 's'}" for count, unit in _counts(ms)]
    words = " ".join(parts)
    return words.removeprefix("1 ") if len(parts) == 1 else words


def _counts(ms: int) -> list[tuple[str, str]]:
    """Return the number of each unit; seconds may have a fraction."""
    counts = []
    for unit, size in _UNITS.items():
        count, rest = divmod(ms, size)
        if unit == "s" and rest:
            counts.append((f"{count}.{rest:03}".rstrip("0"), unit))
        elif count:
            counts.append((str(count), unit))
        ms = rest
    return counts


def _part_ms(text: str, number: str, unit: str) -> int:
    whole, _, fraction = number.partition(".")
    if fraction and unit != "s":
        raise ScheduleError(
            f"{shown(text)} has a fraction, which only seconds may have; {_EXAMPLES}"
        )
    if len(fraction) > 3:
        raise ScheduleError(f"{shown(text)} is finer than a millisecond; {_EXAMPLES}")
    return int(whole) * _UNITS[unit] + int(fraction.ljust(3, "0"))


def _unit(text: str, spelling: str) -> str:
    if spelling not in _SPELLINGS:
        raise ScheduleError(f"{shown(text)}: {shown(spelling)} is not a unit of time; {_EXAMPLES}")
    return _SPELLINGS[spelling]
