"""Turn a schedule given in Python into the text that is stored.

    crontab(minute=0, hour="22-3")                     0 0-3,22-23 * * *
    crontab(hour=22, day_of_month="1-7", day_of_week="sat", minute=0)    0 22 1-7 * +sat
    timedelta(minutes=5), 0.5, schedule(90.5)          every 5m, every 0.5s, every 1m30.5s

A crontab means the sets of minutes, hours and days to which Celery expanded it. A field that was
written with `*` keeps the `*`, because that decides how clock changes affect it. A schedule without
a text form is refused, with what to write instead.

Celery's classes are recognised by name, so that a request can be checked without Celery.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta, tzinfo
from math import isfinite
from typing import Any, Final

import msgspec

from hermes_celery.errors import JobError, ScheduleError, error_text, shown, with_article
from hermes_celery.schedule import duration_text, find_zone

_SHORTEST_MS: Final = 100
_LONGEST_MS: Final = 100 * 366 * 86_400_000
_CRONTAB: Final = "celery.schedules.crontab"
_INTERVAL: Final = "celery.schedules.schedule"
_SOLAR: Final = "celery.schedules.solar"
#: The only accepted subclass: a crontab with its own time zone.
_ZONED_CRONTAB: Final = "django_celery_beat.tzcrontab"
#: Methods with which a subclass decides itself when it is due.
_DECIDING: Final = ("is_due", "remaining_estimate", "remaining_delta", "_delta_to_next")
_ITEM = re.compile(
    r"(?:(?P<star>\*)|(?P<low>\d+)(?:-(?P<high>\d+))?)(?:/(?P<step>[1-9]\d*))?", re.ASCII
)


def text_of(given: Any) -> str:
    """Return a schedule as text: a text, crontab, interval, timedelta or number of seconds.

    Raises JobError that says what is not accepted and what to write instead.
    """
    if isinstance(given, str):
        return given
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(given).__mro__]
    if _SOLAR in names:
        raise JobError(
            f"{shown(given)} follows the sun, which is not supported; write a crontab for the "
            "earliest such time, and let the task wait or check the time"
        )
    for known, read in ((_CRONTAB, _crontab_text), (_INTERVAL, _interval_text)):
        if known in names:
            _check_subclass(given, known)
            return read(given)
    return _every(_period_ms(given))


def zone_name(zone: Any) -> str:
    """Return the name of a zone, or its fixed offset such as `+08:00`. Raises JobError."""
    if isinstance(zone, str):
        return zone
    if not isinstance(zone, tzinfo):
        raise JobError(
            f"timezone is {shown(zone)}; it must be a name such as 'Europe/Berlin', or a ZoneInfo"
        )
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    if isinstance(name, str):
        try:
            return find_zone(name).name
        except ScheduleError:
            pass
    fixed = zone.utcoffset(None)
    if fixed is None or fixed % timedelta(minutes=1):
        raise JobError(
            f"the time zone {shown(zone)} has no name that other machines know; use "
            "ZoneInfo('Europe/Berlin') or the name alone"
        )
    if not fixed:
        return "UTC"
    hours, minutes = divmod(abs(fixed) // timedelta(minutes=1), 60)
    return f"{'-' if fixed < timedelta(0) else '+'}{hours:02}:{minutes:02}"


def _check_subclass(given: Any, known: str) -> None:
    for kind in type(given).__mro__:
        if f"{kind.__module__}.{kind.__qualname__}" == known:
            return
        own = [name for name in _DECIDING if name in vars(kind)]
        if own and kind.__module__ != _ZONED_CRONTAB:
            raise JobError(
                f"{with_article(kind.__qualname__)} decides with its own {own[0]} when it is due, "
                "which cannot be stored; write a crontab, a timedelta or seconds"
            )


# --- crontab


class _Column(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a crontab: how it was written, and the values to which Celery expanded it."""

    written: Any
    values: frozenset[int]
    low: int
    high: int

    @property
    def is_full(self) -> bool:
        return len(self.values) == self.high - self.low + 1

    def text(self) -> str:
        """Return the field as it was written if that means the same here, else its values."""
        written = self.written if isinstance(self.written, str) else ""
        items = "".join(written.split()).split(",")
        found = [_item_values(item, low=self.low, high=self.high) for item in items]
        if None not in found and frozenset().union(*(one or () for one in found)) == self.values:
            return ",".join(items)
        first = found[0]
        if items[0].startswith("*") and first is not None and first <= self.values:
            return ",".join([items[0], *_runs(self.values - first)])
        return ",".join(_runs(self.values))

    def day_text(self) -> str:
        """Do the same for days and months, where `*` does not matter to clock changes."""
        return "*" if self.is_full else self.text()


def _crontab_text(given: Any) -> str:
    minute, hour, day, month, weekday = (
        _column(given, name, low=low, high=high)
        for name, low, high in (
            ("minute", 0, 59),
            ("hour", 0, 23),
            ("day_of_month", 1, 31),
            ("month_of_year", 1, 12),
            ("day_of_week", 0, 6),
        )
    )
    days, weekdays = day.day_text(), weekday.day_text()
    if not (days.startswith("*") or weekdays.startswith("*")):
        # In Celery both must match; in cron, without the sign, one of them.
        weekdays = f"+{weekdays}"
    text = f"{minute.text()} {hour.text()} {days} {month.day_text()} {weekdays}"
    return f"{_zone_prefix(given)}{text}"


def _column(given: Any, name: str, *, low: int, high: int) -> _Column:
    values = getattr(given, name)
    if any(value != int(value) for value in values) or not values:
        raise JobError(f"the {name} of its crontab is {sorted(values)}; give whole numbers")
    return _Column(
        written=getattr(given, f"_orig_{name}", None),
        values=frozenset(int(value) for value in values),
        low=low,
        high=high,
    )


def _item_values(item: str, *, low: int, high: int) -> frozenset[int] | None:
    """Return what an item of a list means to Celery and here; None if they may differ."""
    match = _ITEM.fullmatch(item)
    if match is None or (match["step"] and not match["star"] and match["high"] is None):
        return None
    first = low if match["star"] else int(match["low"])
    last = high if match["star"] else int(match["high"] or first)
    # Celery lets a range wrap around; that range is empty here, and so the answer is None.
    return frozenset(range(first, last + 1, int(match["step"] or 1))) or None


def _runs(values: Iterable[int]) -> list[str]:
    """Return sorted numbers as text, three or more consecutive ones as `first-last`."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and runs[-1][-1] == value - 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return [
        text
        for run in runs
        for text in ([f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(value) for value in run])
    ]


def _zone_prefix(given: Any) -> str:
    """Return the zone of a crontab that has its own clock (`nowfun`)."""
    if given.nowfun is None:
        return ""
    try:
        now = given.nowfun()
    except Exception as error:  # noqa: BLE001 - the user's own function; the refusal quotes it
        raise JobError(f"the nowfun of its crontab raised {error_text(error)}") from None
    if not isinstance(now, datetime) or now.tzinfo is None:
        raise JobError(
            "the nowfun of its crontab returns a time without a zone; leave it out, or write "
            "nowfun=lambda: datetime.now(ZoneInfo('Europe/Berlin'))"
        )
    return f"CRON_TZ={zone_name(now.tzinfo)} "


# --- intervals


def _interval_text(given: Any) -> str:
    period_ms = _period_ms(given.run_every)
    return _rounded(period_ms) if given.relative else _every(period_ms)


def _period_ms(period: Any) -> int:
    """Return the period in milliseconds, which is finer than a beat keeps it."""
    if isinstance(period, timedelta):
        return round(period / timedelta(milliseconds=1))
    if isinstance(period, bool) or not isinstance(period, int | float) or not isfinite(period):
        raise JobError(
            f"{shown(period)} is not a schedule; use a text, a crontab, a timedelta or seconds"
        )
    return round(period * 1000)


def _every(period_ms: int) -> str:
    shown = f"an interval of {period_ms / 1000:g} s"
    if period_ms < _SHORTEST_MS:
        raise JobError(f"{shown} is too short; the shortest is {_SHORTEST_MS / 1000:g} s")
    if period_ms > _LONGEST_MS:
        raise JobError(f"{shown} is too long; the longest is a century")
    return f"every {duration_text(period_ms)}"


def _rounded(period_ms: int) -> str:
    """Return an interval with `relative=True`: full minutes, hours or days of the wall clock."""
    seconds, rest_ms = divmod(period_ms, 1000)
    if seconds < 60 and not rest_ms:
        return _every(period_ms)
    for size, most, fields in (
        (60, 60, "{} * * * *"),
        (3600, 24, "0 {} * * *"),
        (86_400, 1, "0 0 * * *"),
    ):
        count, rest = divmod(seconds, size)
        is_whole = count > 0 and not (rest or rest_ms)
        if is_whole and (count == 1 or (count < most and most % count == 0)):
            return fields.format("*" if count == 1 else f"*/{count}")
    raise JobError(
        f"an interval of {period_ms / 1000:g} s with relative=True does not fit the wall clock; "
        "write a crontab, or leave relative out"
    )
