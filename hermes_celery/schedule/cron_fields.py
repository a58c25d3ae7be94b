"""Read, check and expand the fields of a cron expression.

croniter expands numbers, ranges and steps. This module first handles what croniter reads
differently from crontab(5), or not at all: `5-5` (which it reads as every minute), backward ranges,
full names, and the family of `L`, `W`, `#` and `H`.

Each fault is reported with the field's name, its limits, and the order of the fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NoReturn

import msgspec

from hermes_celery.errors import ScheduleError

MONTH_NAMES: Final = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
WEEKDAY_NAMES: Final = (
    *("sunday", "monday", "tuesday", "wednesday"),
    *("thursday", "friday", "saturday"),
)


def _names(words: tuple[str, ...], *, first: int) -> dict[str, int]:
    numbers = {word: number for number, word in enumerate(words, first)}
    return numbers | {word[:3]: number for word, number in numbers.items()}


class CronField(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of field of a cron expression, such as the minute."""

    name: str
    position: int
    low: int
    high: int
    names: Mapping[str, int] = {}
    #: Whether a range may wrap around, as `Nov-Feb` does.
    wraps: bool = False


MINUTE: Final = CronField(name="minute", position=0, low=0, high=59)
HOUR: Final = CronField(name="hour", position=1, low=0, high=23)
DAY: Final = CronField(name="day", position=2, low=1, high=31)
MONTH: Final = CronField(
    name="month", position=3, low=1, high=12, names=_names(MONTH_NAMES, first=1), wraps=True
)
#: Sunday is 0 and 7.
WEEKDAY: Final = CronField(
    name="weekday", position=4, low=0, high=7, names=_names(WEEKDAY_NAMES, first=0), wraps=True
)
SECOND: Final = CronField(name="second", position=5, low=0, high=59)
YEAR: Final = CronField(name="year", position=6, low=1970, high=2099)
FIELDS: Final = (MINUTE, HOUR, DAY, MONTH, WEEKDAY, SECOND, YEAR)


class CronRange(msgspec.Struct, frozen=True, kw_only=True):
    """One plain item of a list: every `step`th value from `low` to `high`."""

    low: int
    high: int
    step: int = 1


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One field of an expression as it was written, not yet expanded."""

    field: CronField
    text: str
    #: The whole expression, for messages.
    expression: str
    count: int

    def fail(self, fault: str) -> NoReturn:
        """Raise ScheduleError about this field."""
        raise ScheduleError(
            f"{self.expression!r}: {self.field.name} {fault} (fields: {order(self.count)})"
        )

    @property
    def starts_with_star(self) -> bool:
        """True if crontab(5) treats the field as unrestricted: `*`, `*/2`, and here also `?`."""
        return self.text[0] in "*?"

    def quote(self, text: str) -> str:
        """Return a part of the field in quotes, with its original upper and lower case."""
        at = self.text.lower().find(text)
        return repr(self.text[at : at + len(text)] if at >= 0 else text)

    def items(self) -> list[str]:
        """Return the items of the list, in lower case."""
        return self.text.lower().split(",")


def order(count: int) -> str:
    """Return the names of the first `count` fields, for messages."""
    return " ".join(field.name for field in FIELDS[:count])


def split_fields(expression: str) -> list[str]:
    """Split at ASCII blanks only; str.split() would also split at a no-break space."""
    return re.findall(r"\S+", expression, re.ASCII)


def columns(expression: str) -> tuple[Column, ...]:
    """Return the fields of an expression. Raises ScheduleError unless there are five to seven."""
    texts = split_fields(expression)
    if not 5 <= len(texts) <= 7:
        raise ScheduleError(
            f"{expression!r} has {len(texts)} {'field' if len(texts) == 1 else 'fields'}; "
            f"a cron expression has five ({order(5)}), then optionally second and year, "
            "such as '0 9 * * 1-5'"
        )
    return tuple(
        Column(field=field, text=text, expression=expression, count=len(texts))
        for field, text in zip(FIELDS, texts, strict=False)
    )


_PLAIN = re.compile(r"(?P<low>\w+)(?:-(?P<high>\w+))?(?:/(?P<step>\w*))?", re.ASCII)
_RANDOM = re.compile(r"r(?:\(\w+-\w+\))?(?:/\w*)?", re.ASCII)
_STAR = re.compile(r"[*](?:/(?P<step>\w*))?", re.ASCII)


def read_item(column: Column, text: str) -> CronRange:
    """Read `5`, `1-5`, `10-50/15`, `10/15`, `*` or `*/15`. Raises ScheduleError."""
    field = column.field
    top = 6 if field is WEEKDAY else field.high
    if text == "?":
        return CronRange(low=field.low, high=top)
    star = _STAR.fullmatch(text)
    if star:
        return CronRange(low=field.low, high=top, step=read_step(column, star["step"]))
    if _RANDOM.fullmatch(text):
        column.fail(
            f"{column.quote(text)} would pick a new value each time; use H, which spreads jobs and "
            "stays the same"
        )
    plain = _PLAIN.fullmatch(text)
    if plain is None:
        column.fail(
            f"{column.quote(text)} is not a value, a range or a step such as {_example(field)}"
        )
    low = read_value(column, plain["low"])
    step = read_step(column, plain["step"])
    if plain["high"] is not None:
        return _range(column, text, low, _high(column, plain["high"]), step)
    return CronRange(low=low, high=low if plain["step"] is None else top, step=step)


def _high(column: Column, text: str) -> int:
    # croniter reads `1-L` as up to the last day of the month.
    if column.field is DAY and text == "l":
        return DAY.high
    return read_value(column, text)


def _range(column: Column, text: str, low: int, high: int, step: int) -> CronRange:
    field = column.field
    if low > high and not field.wraps:
        column.fail(
            f"range {column.quote(text)} runs backwards; write "
            f"{low}-{field.high},{field.low}-{high} if it is meant to wrap around"
        )
    return CronRange(low=low, high=high, step=step)


def read_value(column: Column, text: str) -> int:
    """Read a number or name and check it against the field's limits. Raises ScheduleError."""
    field = column.field
    if text in field.names:
        return field.names[text]
    if not text.isdecimal():
        column.fail(f"{column.quote(text)} is not {_kind(field)}")
    # A schedule's length is capped, so int() stays cheap.
    value = int(text)
    if not field.low <= value <= field.high:
        column.fail(f"{_short(value)} is outside {field.low}-{field.high}")
    return value


def read_step(column: Column, text: str | None) -> int:
    """Read a step of at least 1. Raises ScheduleError."""
    if text is None:
        return 1
    if not text.isdecimal():
        column.fail(f"step {text!r} is not a number" if text else "has '/' but no step after it")
    step = int(text)
    if step == 0:
        column.fail("step 0 would never advance; use 1 or more")
    return step


def _short(value: int) -> str:
    digits = str(value)
    return digits if len(digits) <= 12 else f"{digits[:9]}..."


def _kind(field: CronField) -> str:
    return "a number" if not field.names else f"a number or a {field.name}'s name"


def _example(field: CronField) -> str:
    return {
        "day": "15, 1-5, */2, L, 15W",
        "month": "6, jan-mar, */3",
        "weekday": "1, mon-fri, fri#2, 5L",
        "year": "2030, 2030-2035",
    }.get(field.name, "0, 10-20, */15")


def expand(column: Column, items: list[CronRange]) -> frozenset[int]:
    """Return the values that plain items mean; Sunday is 0."""
    if not items:
        return frozenset()
    text = ",".join(_for_croniter(column.field, item) for item in items)
    try:
        return _expanded(column.field.position, text)
    except ValueError as error:
        column.fail(f"{column.text!r} is invalid: {error}")


# Most expressions consist of the same few fields (`*`, `0`, `1-5`).
@lru_cache(maxsize=1024)
def _expanded(position: int, text: str) -> frozenset[int]:
    from croniter import croniter  # 25 ms to import: only when a cron expression is compiled

    texts = ["*"] * max(5, position + 1)
    texts[position] = text
    values = croniter.expand(" ".join(texts))[0][position]
    if "*" in values:
        field = FIELDS[position]
        return frozenset(range(field.low, (6 if field is WEEKDAY else field.high) + 1))
    return frozenset(int(value) for value in values)


def _for_croniter(field: CronField, item: CronRange) -> str:
    low, high = item.low, item.high
    if field is WEEKDAY and (low, high) == (0, 7):
        high = 6
    if low == high or (field is WEEKDAY and low % 7 == high % 7):
        return str(low % 7 if field is WEEKDAY else low)
    # A step larger than the field selects the first value only, as the field's size does.
    return f"{low}-{high}/{min(item.step, field.high + 1)}"
