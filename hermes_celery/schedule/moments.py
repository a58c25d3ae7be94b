"""Read single moments in ISO 8601, with an offset or in local time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from hermes_celery.errors import ScheduleError, shown
from hermes_celery.instant import from_ms, iso, to_ms
from hermes_celery.schedule.months import HORIZON_SECONDS
from hermes_celery.schedule.once import Once
from hermes_celery.schedule.schedule import ScheduleKind
from hermes_celery.schedule.time_zones import find_zone

_ISO: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2})"
    r"(?:[Tt ](\d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,6})?)?)\s?([Zz]|[+-]\d{2}(?::?\d{2})?)?)?",
    re.ASCII,
)
_LOOKS_ISO: Final = re.compile(r"\d{4}-\d{1,2}-\d{1,2}(?:\D.*)?", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - local seconds are counted without a zone


def looks_like_moment(text: str) -> bool:
    """Return whether a text begins like an ISO date."""
    return _LOOKS_ISO.fullmatch(text) is not None


def read_moment(text: str) -> datetime:
    """Read an ISO 8601 date or time; it is naive if it has no offset. Raises ScheduleError."""
    match = _ISO.fullmatch(text.strip())
    if match is None:
        raise ScheduleError(
            f"{shown(text)} is not an ISO time; use for example 2027-03-28T14:00, "
            "2027-03-28T14:00:00+02:00 or 2027-03-28"
        )
    day, time, offset = match[1], match[2] or "00:00", (match[3] or "").upper()
    try:
        moment = datetime.fromisoformat(f"{day}T{time.replace(',', '.')}{offset}")
    except ValueError as error:
        raise ScheduleError(f"{shown(text)} is not a real time: {error}") from None
    if not 1970 <= moment.year < 2100:
        raise ScheduleError(f"{shown(text)} is outside the years 1970-2099")
    return moment


def moment_ms(moment: datetime, *, timezone: str) -> int:
    """Return the Unix milliseconds of a moment; a naive one is local time in `timezone`.

    A local time in a gap means the end of the gap. A local time that comes twice means the first.
    """
    if moment.tzinfo is not None:
        return to_ms(moment)
    zone = find_zone(timezone)
    local = (moment - _EPOCH) // timedelta(seconds=1)
    milliseconds = 0 if zone.is_in_gap(local) else moment.microsecond // 1000
    return zone.instant(local) * 1000 + milliseconds


def once_at(moment: datetime, *, timezone: str) -> Once:
    """Return the schedule of a single moment."""
    shown = moment.strftime("%Y-%m-%d %H:%M:%S" if moment.second else "%Y-%m-%d %H:%M")
    at_ms = moment_ms(moment, timezone=timezone)
    return once_ms(at_ms, timezone=timezone, display=f"once at {shown}")


def once_ms(at_ms: int, *, timezone: str, display: str) -> Once:
    """Return the schedule of a single instant, given in Unix milliseconds."""
    if not 0 <= at_ms < HORIZON_SECONDS * 1000:
        raise ScheduleError(f"{from_ms(at_ms).isoformat()} is outside the years 1970-2099")
    return Once(
        text=local_iso(at_ms, timezone=timezone),
        kind=ScheduleKind.ONCE,
        timezone=timezone,
        display=display,
        at_ms=at_ms,
    )


def local_iso(at_ms: int, *, timezone: str) -> str:
    """Return an instant in ISO 8601 with the zone's offset at that time."""
    instant = from_ms(at_ms)
    zone = UTC if timezone == "UTC" else find_zone(timezone).for_display()
    return iso(instant.astimezone(zone)) or ""
