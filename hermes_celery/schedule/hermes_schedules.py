"""Read schedules as Hermes stores them in `jobs.json`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from math import isfinite
from typing import Final

import msgspec

from hermes_celery.errors import ScheduleError
from hermes_celery.schedule.parsing import interval, parse
from hermes_celery.schedule.schedule import Schedule, ScheduleKind, instant_ms

_LONGEST_MINUTES: Final = 100 * 366 * 1440


def from_hermes(
    stored: Mapping[str, object] | None,
    *,
    timezone: str | None = None,
    now: datetime | None = None,
    spread: str = "",
) -> Schedule:
    """Read a schedule that Hermes stored; its `display` is kept.

        {"kind": "interval", "minutes": 30}
        {"kind": "cron", "expr": "0 9 * * *"}
        {"kind": "once", "run_at": "2027-03-28T14:00:00+02:00"}

    `timezone`, `now` and `spread` are as in `parse`. Raises ScheduleError for anything else.
    """
    if not isinstance(stored, Mapping):
        raise ScheduleError(f"{stored!r} is not a stored schedule; {_SHAPES}")
    display = stored.get("display")
    if display is not None and not isinstance(display, str):
        raise ScheduleError(f"{dict(stored)!r}: display must be a text")
    kind = stored.get("kind")
    if kind == ScheduleKind.INTERVAL:
        anchor_ms = None if now is None else instant_ms(now)
        return interval(
            _period_ms(stored),
            anchor_ms=anchor_ms,
            timezone=timezone or "UTC",
            display=display,
        )
    schedule = parse(_text(stored, kind), timezone=timezone, now=now, spread=spread)
    if schedule.kind != kind:
        raise ScheduleError(f"{dict(stored)!r}: {schedule.text!r} is not of kind {kind!r}")
    return _displayed(schedule, display)


_SHAPES: Final = (
    "use {'kind': 'cron', 'expr': '0 9 * * *'}, {'kind': 'interval', 'minutes': 30} or "
    "{'kind': 'once', 'run_at': '2027-03-28T14:00:00+02:00'}"
)


def _text(stored: Mapping[str, object], kind: object) -> str:
    key = {"cron": "expr", "once": "run_at"}.get(kind) if isinstance(kind, str) else None
    text = None if key is None else stored.get(key)
    if not isinstance(text, str):
        raise ScheduleError(f"{dict(stored)!r} is not a stored schedule; {_SHAPES}")
    return text


def _period_ms(stored: Mapping[str, object]) -> int:
    minutes, seconds = stored.get("minutes"), stored.get("seconds")
    unit, count = ("minutes", minutes) if seconds is None else ("seconds", seconds)
    unit_ms = 60_000 if unit == "minutes" else 1000
    # JSON may contain 30.0. A bool is an int in Python, but not a number here.
    if not isinstance(count, int | float) or isinstance(count, bool) or not isfinite(count):
        raise ScheduleError(f"{dict(stored)!r}: {unit} must be a number; {_SHAPES}")
    ms = round(count * unit_ms)
    if unit == "minutes" and ms % unit_ms:
        raise ScheduleError(f"{dict(stored)!r}: minutes must be a whole number; {_SHAPES}")
    if not 0 < ms <= _LONGEST_MINUTES * 60_000:
        raise ScheduleError(f"{dict(stored)!r}: minutes must be 1 or more, up to a century")
    return ms


def _displayed(schedule: Schedule, display: str | None) -> Schedule:
    if display is None or display == schedule.display:
        return schedule
    return msgspec.structs.replace(schedule, display=display)
