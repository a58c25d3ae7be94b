"""Map local time to instants: a time zone's offsets as a table, and two rules for clock changes.

The rules are those of Debian's cron(8). A job at a fixed time runs exactly once per local day: at
the end of a gap, or at the first of two repeats. A job with a wildcard in its minute or hour
follows elapsed time: it skips what a gap skips, and runs twice in what is repeated. cron(8) limits
this to changes of less than three hours; here it holds for every change, with one exception that
agrees with cron(8): a calendar day that a zone leaves out entirely (Apia, 2011-12-30) has no runs.

The first rule follows from one definition: a nominal local time is reached at *the first instant at
which the zone's clock has read at least that time*. In a gap that is the end of the gap, and of two
repeats it is the first.

The tables are read from `zoneinfo` once per zone; no later step uses it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from itertools import accumulate
from typing import Final

import msgspec

from hermes_celery.errors import ScheduleError, shown
from hermes_celery.schedule.months import DAY_SECONDS, HORIZON_SECONDS

# Since 1970 no zone has changed twice within less than 6.9 days (Gaza, Ramadan 2040).
_PROBE_SECONDS: Final = 5 * DAY_SECONDS
_FAR_SECONDS: Final = 1 << 50
_FIXED_OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})", re.ASCII)
_UTC_NAMES: Final = frozenset({"UTC", "Etc/UTC", "Z"})


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """A zone's offsets from UTC between 1970 and 2099, in seconds."""

    name: str
    #: Segment i is valid from starts[i] (Unix seconds) until ends[i], exclusive; the last one ends
    #: at the horizon of this package.
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    offsets: tuple[int, ...]
    #: reached[i]: when segment i ends, the clock has shown every local second before this one.
    reached: tuple[int, ...]

    def segment(self, second: int) -> int:
        """Return the number of the segment that contains a Unix second."""
        return bisect_right(self.starts, second) - 1

    def offset(self, second: int) -> int:
        """Return the seconds east of UTC at a Unix second."""
        return self.offsets[bisect_right(self.starts, second) - 1]

    def high_water(self, second: int) -> int:
        """Return the latest local second that the clock has shown up to a Unix second."""
        segment = self.segment(second)
        local = second + self.offsets[segment]
        return max(local, self.reached[segment - 1] - 1) if segment else local

    def instant(self, local: int) -> int:
        """Return the first Unix second at which the clock has reached a local second.

        This is the rule for fixed times.
        """
        segment = bisect_right(self.reached, local)
        return max(self.starts[segment], local - self.offsets[segment])

    def leaves_out(self, day: int) -> bool:
        """Return whether a local day (counted from 1970-01-01) does not exist in the zone."""
        segment = bisect_right(self.reached, day * DAY_SECONDS)
        opens = self.starts[segment] + self.offsets[segment]
        return segment > 0 and opens >= (day + 1) * DAY_SECONDS

    def is_in_gap(self, local: int) -> bool:
        """Return whether the zone's clock jumps over a local second."""
        segment = bisect_right(self.reached, local)
        return local - self.offsets[segment] < self.starts[segment]

    def for_display(self) -> tzinfo:
        """Return the zone for `datetime`, for display and not for computing."""
        return _tzinfo(self.name)


@lru_cache(maxsize=1024)
def find_zone(name: str) -> Zone:
    """Return the zone of an IANA name or a fixed offset such as `+02:00`.

    Raises ScheduleError if there is no such zone.
    """
    if name in _UTC_NAMES:
        return _zone(name, [(-_FAR_SECONDS, 0)])
    zone = _tzinfo(name)
    if isinstance(zone, timezone):
        return _zone(name, [(-_FAR_SECONDS, _offset(zone, 0))])
    return _zone(name, _changes(zone))


def _tzinfo(name: str) -> tzinfo:
    if name in _UTC_NAMES:
        return UTC
    fixed = _FIXED_OFFSET.fullmatch(name)
    if fixed:
        return _fixed(name, fixed)
    return _iana(name)


def _fixed(name: str, match: re.Match[str]) -> tzinfo:
    sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    if int(minutes) > 59 or offset >= timedelta(days=1):
        raise _no_zone(name)
    return timezone(-offset if sign == "-" else offset)


def _iana(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo  # reads the tz database: only when a schedule names a zone

    # Zones under right/ count leap seconds; Unix time and cron do not.
    if not name or name.startswith("right/"):
        raise _no_zone(name)
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise _no_zone(name) from None


def _no_zone(name: str) -> ScheduleError:
    return ScheduleError(
        f"{shown(name)} is not a time zone; use an IANA name such as 'Europe/Berlin' or 'UTC'"
    )


def _zone(name: str, changes: list[tuple[int, int]]) -> Zone:
    starts = tuple(start for start, _ in changes)
    offsets = tuple(offset for _, offset in changes)
    ends = (*starts[1:], HORIZON_SECONDS)
    read = (end + off for end, off in zip(ends[:-1], offsets[:-1], strict=True))
    reached = (*accumulate(read, max), _FAR_SECONDS)
    return Zone(name=name, starts=starts, ends=ends, offsets=offsets, reached=reached)


def _offset(zone: tzinfo, second: int) -> int:
    delta = datetime.fromtimestamp(second, zone).utcoffset()
    assert delta is not None
    return delta.days * DAY_SECONDS + delta.seconds


def _changes(zone: tzinfo) -> list[tuple[int, int]]:
    """Return all (Unix second, offset from then on), found by probing and bisection."""
    offset = _offset(zone, 0)
    changes = [(-_FAR_SECONDS, offset)]
    for probe in range(_PROBE_SECONDS, HORIZON_SECONDS, _PROBE_SECONDS):
        later = _offset(zone, probe)
        if later != offset:
            changes.append((_change_between(zone, probe - _PROBE_SECONDS, probe), later))
            offset = later
    return changes


def _change_between(zone: tzinfo, before: int, after: int) -> int:
    old = _offset(zone, before)
    while after - before > 1:
        middle = (before + after) // 2
        if _offset(zone, middle) == old:
            before = middle
        else:
            after = middle
    return after
