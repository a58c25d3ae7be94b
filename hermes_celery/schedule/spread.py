"""`H` and jitter: a value that differs from job to job and never for one job.

It is computed from the job's id alone (for jitter, with the occurrence), so it is the same on every
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
    """Whether an expression says `H`, so that its instants depend on the job's id."""
    return _HAS_H.search(expression) is not None


def spread_number(text: str) -> int:
    """A whole number that looks random and is the same for the same text, everywhere and always."""
    from hashlib import blake2b  # loads OpenSSL: only for jobs that are spread out

    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def resolve(expression: str, spread: str) -> str:
    """The expression with a plain value for each `H`; raises ScheduleError.

    What comes out is shared by all jobs that draw the same values.
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
        column.fail(f"{column.quote(match[0])} would leave the year to chance")
    if match["low"] is not None:
        low, high = read_value(column, match["low"]), read_value(column, match["high"])
        if low > high:
            column.fail(f"range H({low}-{high}) runs backwards")
        return CronRange(low=low, high=high)
    # Every month has 28 days; a job on the 31st would miss most of them.
    if column.field is DAY:
        return CronRange(low=1, high=28)
    return CronRange(low=column.field.low, high=6 if column.field is WEEKDAY else column.field.high)
