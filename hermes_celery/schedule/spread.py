"""Compute `H` and jitter: values that differ between jobs and stay the same for one job.

They depend on the job's id alone (jitter also on the occurrence). So they are the same on every
machine, after every restart and with every version of every library.
"""

from __future__ import annotations

import re

from hermes_celery.schedule.cron_fields import (
    DAY,
    WEEKDAY,
    YEAR,
    Column,
    CronRange,
    columns,
    read_step,
    read_value,
)

_H = re.compile(r"h(?:\((?P<low>\w+)-(?P<high>\w+)\))?(?:/(?P<step>\w*))?", re.ASCII)
_HAS_H = re.compile(r"(?:^|[\s,])h(?=$|[\s,(/])", re.ASCII | re.IGNORECASE)


def has_spread(expression: str) -> bool:
    """Return whether an expression contains `H`, so that its instants depend on the job's id."""
    return _HAS_H.search(expression) is not None


def spread_number(text: str) -> int:
    """Return a pseudo-random whole number that is always the same for the same text."""
    from hashlib import blake2b  # loads OpenSSL: only for jobs with H or jitter

    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def resolve(expression: str, spread: str) -> str:
    """Replace each `H` in an expression by a value. Raises ScheduleError.

    Jobs whose values are equal share the resulting expression.
    """
    return " ".join(
        ",".join(_resolve_item(column, text, spread) for text in column.items())
        for column in columns(expression)
    )


def _resolve_item(column: Column, text: str, spread: str) -> str:
    match = _H.fullmatch(text)
    if match is None:
        return text
    bounds = _bounds(column, match)
    number = spread_number(f"{column.field.name}:{spread}")
    if match["step"] is None:
        return str(bounds.low + number % (bounds.high - bounds.low + 1))
    step = min(read_step(column, match["step"]), bounds.high - bounds.low + 1)
    return f"{bounds.low + number % step}-{bounds.high}/{step}"


def _bounds(column: Column, match: re.Match[str]) -> CronRange:
    if column.field is YEAR:
        column.fail(f"{column.quote(match[0])} would pick a random year; name the year")
    if match["low"] is not None:
        low, high = read_value(column, match["low"]), read_value(column, match["high"])
        if low > high:
            column.fail(f"range H({low}-{high}) runs backwards")
        return CronRange(low=low, high=high)
    # Every month has 28 days; a job on the 31st would not run in most months.
    if column.field is DAY:
        return CronRange(low=1, high=28)
    return CronRange(low=column.field.low, high=6 if column.field is WEEKDAY else column.field.high)
