"""Cron schedules: a pattern of local time in a time zone."""

from __future__ import annotations

from bisect import bisect_right

from hermes_celery.schedule.months import DAY_SECONDS
from hermes_celery.schedule.pattern import Pattern
from hermes_celery.schedule.schedule import Schedule
from hermes_celery.schedule.time_zones import Zone


class CronExpression(Schedule, frozen=True, kw_only=True):
    """Occurs when the clock of a time zone matches a pattern (clock changes: `time_zones.py`)."""

    pattern: Pattern
    zone: Zone
    #: The text in which each `H` is replaced by a value.
    expression: str
    #: Whether neither minute nor hour starts with `*`; then a local time occurs once per day.
    fixed_time: bool

    def next_after_ms(self, ms: int) -> int | None:
        """Return the first occurrence strictly after an instant, both in Unix milliseconds."""
        second = max(ms // 1000, -1)
        zone = self.zone
        segment = bisect_right(zone.starts, second) - 1
        offset = zone.offsets[segment]
        local = second + offset + 1
        if segment and self.fixed_time and local < zone.reached[segment - 1]:
            local = zone.reached[segment - 1]
        found = self.pattern.next_local(local)
        if found is None:
            return None
        at: int | None = found - offset
        if found - offset >= zone.ends[segment]:
            # The match is beyond the next clock change.
            at = self._next_fixed(found) if self.fixed_time else self._next_wild(found, segment)
        return None if at is None else at * 1000

    def latest_until_ms(self, ms: int) -> int | None:
        """Return the last occurrence at or before an instant, both in Unix milliseconds."""
        # No occurrence is before 1970, so the search ends there.
        second = min(ms // 1000, self.zone.ends[-1] - 1)
        at = self._latest_fixed(second) if self.fixed_time else self._latest_wild(second)
        return None if at is None or at < 0 else at * 1000

    def _next_fixed(self, nominal: int | None) -> int | None:
        while nominal is not None and self.zone.leaves_out(nominal // DAY_SECONDS):
            nominal = self.pattern.next_local((nominal // DAY_SECONDS + 1) * DAY_SECONDS)
        if nominal is None:
            return None
        at = self.zone.instant(nominal)
        return at if at < self.zone.ends[-1] else None

    def _next_wild(self, found: int, segment: int) -> int | None:
        zone = self.zone
        while found - zone.offsets[segment] >= zone.ends[segment]:
            closes = zone.ends[segment] + zone.offsets[segment]
            segment += 1
            if segment == len(zone.starts):
                return None
            opens = zone.starts[segment] + zone.offsets[segment]
            # Keep a match beyond the change; only a gap or a repeat needs another search.
            if found < opens or opens < closes:
                again = self.pattern.next_local(opens)
                if again is None:
                    return None
                found = again
        return found - zone.offsets[segment]

    def _latest_fixed(self, second: int) -> int | None:
        nominal = self.pattern.previous_local(self.zone.high_water(second))
        while nominal is not None and self.zone.leaves_out(nominal // DAY_SECONDS):
            nominal = self.pattern.previous_local(nominal // DAY_SECONDS * DAY_SECONDS - 1)
        return None if nominal is None else self.zone.instant(nominal)

    def _latest_wild(self, second: int) -> int | None:
        zone = self.zone
        segment = zone.segment(second)
        found = self.pattern.previous_local(second + zone.offsets[segment])
        while found is not None and found - zone.offsets[segment] < zone.starts[segment]:
            opens = zone.starts[segment] + zone.offsets[segment]
            segment -= 1
            closes = zone.ends[segment] + zone.offsets[segment]
            if found >= closes or opens < closes:
                found = self.pattern.previous_local(closes - 1)
        return None if found is None else found - zone.offsets[segment]
