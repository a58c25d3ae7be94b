"""Check the arguments of the Python API where they enter.

Python passes any value: a wrong one would be answered with a wrong result, or would fail far away
in words that name no argument. Each check returns the value as it is used from here on. It raises
JobError (for an instant: ScheduleError) with the argument's name, what was given and what it must
be.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from math import isfinite
from typing import Any, TypeVar

from hermes_celery.errors import JobError, ScheduleError, shown, with_article

_Word = TypeVar("_Word", bound=StrEnum)


def finite(value: Any, *, name: str) -> float:
    """Return a finite number."""
    try:
        if _is_number(value) and isfinite(value):
            return float(value)
    except OverflowError:
        pass  # a whole number beyond all floats
    raise _refusal(value, name, "a finite number")


def whole_within(value: Any, *, name: str, low: int, high: int) -> int:
    """Return a whole number from `low` to `high`."""
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise _refusal(value, name, f"a whole number from {low:,} to {high:,}")


def true_or_false(value: Any, *, name: str) -> bool:
    """Return a bool. No other value stands for one: Python takes the text "no" for true."""
    if isinstance(value, bool):
        return value
    raise _refusal(value, name, "True or False")


def word_or_none(
    value: Any,
    *,
    name: str,
    kind: type[_Word],
    stored: Callable[[str], str] = str,
    seen: Callable[[str], str] = str,
) -> _Word | None:
    """Return a member of an enum, also for its word; None stays None.

    `stored` turns a word that people see into the member's own, and `seen` does the opposite.
    """
    if value is None or isinstance(value, kind):
        return value
    if isinstance(value, str):
        try:
            return kind(stored(value))
        except ValueError:
            pass  # an unknown word is refused as any other value
    raise _refusal(value, name, f"one of {', '.join(seen(one.value) for one in kind)}")


def of_kind(value: Any, *, name: str, kind: type) -> Any:
    """Return a value of a class."""
    if isinstance(value, kind):
        return value
    raise _refusal(value, name, with_article(kind.__name__))


def a_text(value: Any, *, name: str) -> str:
    """Return a text."""
    if isinstance(value, str):
        return value
    raise _refusal(value, name, "a text")


def stored_text(value: Any, *, name: str, most: int | None = None) -> str:
    """Return a text that can be stored, of at most `most` characters."""
    given = a_text(value, name=name)
    if most is not None and len(given) > most:
        raise JobError(
            f"{name} has {len(given):,} characters, more than {most:,}; it begins {shown(given)}. "
            "Give a shorter one"
        )
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise not_storable(name, error) from None
    return given


def not_storable(name: str, error: UnicodeEncodeError) -> JobError:
    """Return the refusal of a text that UTF-8 cannot hold.

    A file name or an escape has left half a character in it.
    """
    half = error.object[error.start]
    return JobError(
        f"{name} contains {half!r}, which is half of a character and cannot be stored; replace it"
    )


def aware(value: Any, *, name: str) -> datetime:
    """Return an aware datetime."""
    if not isinstance(value, datetime):
        raise ScheduleError(f"{name} is {shown(value)}; it must be an aware datetime")
    if value.utcoffset() is None:
        raise ScheduleError(
            f"{name} is {value.isoformat()}, which has no time zone; give an aware datetime, such "
            "as datetime.now(UTC)"
        )
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refusal(value: Any, name: str, what: str) -> JobError:
    return JobError(f"{name} is {shown(value)}; it must be {what}")
