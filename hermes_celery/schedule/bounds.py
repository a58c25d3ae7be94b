"""Narrow a schedule by a start and an end, exclusions, and jitter.

Each of them is a schedule around another one. Jitter is the outermost: it delays what the others
let through.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from hermes_celery.errors import ScheduleError
from hermes_celery.instant import from_ms
from hermes_celery.schedule.exclusions import Exclusion, read_exclusion
from hermes_celery.schedule.schedule import Schedule, instant_ms
from hermes_celery.schedule.spread import spread_number
from hermes_celery.schedule.time_zones import Zone, find_zone

# Eight years of daily runs, all of them excluded; after that the search gives up.
_MOST_EXCLUDED: Final = 3000


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of a job's schedule. Instants are Unix milliseconds, both included."""

    start_ms: int | None = None
    end_ms: int | None = None
    #: Cron expressions (`* * 24-26 12 *`), dates (`2027-12-24`) and spans of them
    #: (`2027-12-24..2027-12-26`), in the schedule's zone.
    exclude: tuple[str, ...] = ()
    #: Upper limit of an occurrence's delay, which always ends before the next occurrence.
    jitter_seconds: int = 0

    @classmethod
    def of(
        cls,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        exclude: Sequence[str] = (),
        jitter_seconds: int = 0,
    ) -> Bounds:
        """Make bounds from aware instants; a naive one raises ScheduleError."""
        return cls(
            start_ms=None if start is None else instant_ms(start),
            end_ms=None if end is None else instant_ms(end),
            exclude=tuple(exclude),
            jitter_seconds=jitter_seconds,
        )


#: The bounds of a job that does not narrow its schedule.
UNBOUNDED: Final = Bounds()


def restrict(schedule: Schedule, bounds: Bounds, *, spread: str) -> Schedule:
    """Put bounds, exclusions and jitter around a schedule; `spread` is the job's id.

    Raises ScheduleError if they are invalid or leave no occurrence.
    """
    jitter_seconds = bounds.jitter_seconds
    if jitter_seconds < 0:
        raise ScheduleError(f"jitter of {jitter_seconds} seconds is negative; use 0 or more")
    if bounds.exclude:
        schedule = _excluding(schedule, bounds.exclude)
    if bounds.start_ms is not None or bounds.end_ms is not None:
        schedule = _bounded(schedule, bounds.start_ms, bounds.end_ms)
    if jitter_seconds:
        schedule = Jittered(
            **_same(schedule),
            inner=schedule,
            jitter_seconds=jitter_seconds,
            spread=spread,
            end_ms=bounds.end_ms,
        )
    return schedule


class Bounded(Schedule, frozen=True, kw_only=True):
    """Occurs only from `start_ms` to `end_ms`, both included."""

    inner: Schedule
    start_ms: int | None
    end_ms: int | None

    @property
    def unbounded(self) -> Schedule:
        """The inner schedule without its own bounds."""
        return self.inner.unbounded

    def next_after_ms(self, ms: int) -> int | None:
        """Return the first occurrence within the bounds strictly after an instant."""
        if self.start_ms is not None:
            ms = max(ms, self.start_ms - 1)
        at = self.inner.next_after_ms(ms)
        return None if at is None or (self.end_ms is not None and at > self.end_ms) else at

    def latest_until_ms(self, ms: int) -> int | None:
        """Return the last occurrence within the bounds at or before an instant."""
        if self.end_ms is not None:
            ms = min(ms, self.end_ms)
        at = self.inner.latest_until_ms(ms)
        return None if at is None or (self.start_ms is not None and at < self.start_ms) else at

    def to_hermes(self) -> dict[str, object]:
        """Return the schedule without its bounds, which Hermes does not have."""
        return self.inner.to_hermes()


class Excluding(Schedule, frozen=True, kw_only=True):
    """Leaves out the occurrences at excluded times."""

    inner: Schedule
    exclusions: tuple[Exclusion, ...]
    zone: Zone

    @property
    def unbounded(self) -> Schedule:
        """The inner schedule without its own bounds."""
        return self.inner.unbounded

    def next_after_ms(self, ms: int) -> int | None:
        """Return the first occurrence strictly after an instant that is not excluded."""
        at = self.inner.next_after_ms(ms)
        for _ in range(_MOST_EXCLUDED):
            block = None if at is None else self._block_ms(at)
            if block is None:
                return at
            at = self.inner.next_after_ms(block[1] - 1)
        return None

    def latest_until_ms(self, ms: int) -> int | None:
        """Return the last occurrence at or before an instant that is not excluded."""
        at = self.inner.latest_until_ms(ms)
        for _ in range(_MOST_EXCLUDED):
            block = None if at is None else self._block_ms(at)
            if block is None:
                return at
            at = self.inner.latest_until_ms(block[0] - 1)
        return None

    def to_hermes(self) -> dict[str, object]:
        """Return the schedule without its exclusions, which Hermes does not have."""
        return self.inner.to_hermes()

    def _block_ms(self, at_ms: int) -> tuple[int, int] | None:
        """Return the excluded time [from, to) around an occurrence, cut off at clock changes."""
        second = at_ms // 1000
        segment = self.zone.segment(second)
        offset = self.zone.offsets[segment]
        for exclusion in self.exclusions:
            block = exclusion.block(second + offset)
            if block is not None:
                start = max(block[0] - offset, self.zone.starts[segment])
                end = min(block[1] - offset, self.zone.ends[segment])
                return start * 1000, end * 1000
        return None


class Jittered(Schedule, frozen=True, kw_only=True):
    """Delays each occurrence by whole seconds, always by the same for one job and occurrence.

    The delay ends before the next occurrence and before the schedule's end. So the order and number
    of occurrences stay the same.
    """

    inner: Schedule
    jitter_seconds: int
    spread: str
    end_ms: int | None

    @property
    def nominal(self) -> Schedule:
        """The inner schedule, whose occurrences are delayed."""
        return self.inner

    @property
    def unbounded(self) -> Schedule:
        """The inner schedule without its own bounds."""
        return self.inner.unbounded

    def next_after_ms(self, ms: int) -> int | None:
        """Return the first delayed occurrence strictly after an instant."""
        nominal = self.inner.latest_until_ms(ms)
        if nominal is not None and self._delayed(nominal) > ms:
            return self._delayed(nominal)
        upcoming = self.inner.next_after_ms(ms)
        return None if upcoming is None else self._delayed(upcoming)

    def latest_until_ms(self, ms: int) -> int | None:
        """Return the last delayed occurrence at or before an instant."""
        nominal = self.inner.latest_until_ms(ms)
        if nominal is not None and self._delayed(nominal) > ms:
            nominal = self.inner.latest_until_ms(nominal - 1)
        return None if nominal is None else self._delayed(nominal)

    def to_hermes(self) -> dict[str, object]:
        """Return the schedule without its jitter, which Hermes does not have."""
        return self.inner.to_hermes()

    def _delayed(self, nominal_ms: int) -> int:
        room_ms = self.jitter_seconds * 1000
        following = self.inner.next_after_ms(nominal_ms)
        if following is not None:
            room_ms = min(room_ms, following - nominal_ms - 1)
        if self.end_ms is not None:
            room_ms = min(room_ms, self.end_ms - nominal_ms)
        delay_seconds = spread_number(f"{self.spread}:{nominal_ms}") % (room_ms // 1000 + 1)
        return nominal_ms + delay_seconds * 1000


def _bounded(schedule: Schedule, start_ms: int | None, end_ms: int | None) -> Schedule:
    if start_ms is not None and end_ms is not None and start_ms > end_ms:
        raise ScheduleError(
            f"the start {from_ms(start_ms).isoformat()} is later than the end "
            f"{from_ms(end_ms).isoformat()}"
        )
    return Bounded(**_same(schedule), inner=schedule, start_ms=start_ms, end_ms=end_ms)


def _excluding(schedule: Schedule, exclude: tuple[str, ...]) -> Schedule:
    exclusions = tuple(read_exclusion(text, timezone=schedule.timezone) for text in exclude)
    zone = find_zone(schedule.timezone)
    narrowed = Excluding(**_same(schedule), inner=schedule, exclusions=exclusions, zone=zone)
    if narrowed.next_after_ms(-1) is None:
        raise ScheduleError(
            f"{schedule.text!r} never runs: {', '.join(exclude)} excludes all of it"
        )
    return narrowed


def _same(schedule: Schedule) -> dict[str, Any]:
    """Return the attributes that a schedule and its wrapper share."""
    return {name: getattr(schedule, name) for name in Schedule.__struct_fields__}
