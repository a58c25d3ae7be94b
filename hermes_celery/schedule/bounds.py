"""What narrows a schedule: a start and an end, exclusions, and jitter.

Each is a schedule around another one. Jitter comes last: it delays what the others let through.
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

# Daily runs, all of them excluded, for eight years: by then nothing is meant to be left.
_MOST_EXCLUDED: Final = 3000


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How a job narrows its schedule. Instants are Unix milliseconds, both included."""

    start_ms: int | None = None
    end_ms: int | None = None
    #: Cron expressions (`* * 24-26 12 *`), dates (`2027-12-24`) and spans of them
    #: (`2027-12-24..2027-12-26`), in the schedule's zone.
    exclude: tuple[str, ...] = ()
    #: Each occurrence is delayed by up to that much, never up to the next one.
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
        """The same from aware instants; a naive one raises ScheduleError."""
        return cls(
            start_ms=None if start is None else instant_ms(start),
            end_ms=None if end is None else instant_ms(end),
            exclude=tuple(exclude),
            jitter_seconds=jitter_seconds,
        )


#: Those of a job that narrows nothing.
UNBOUNDED: Final = Bounds()


def restrict(schedule: Schedule, bounds: Bounds, *, spread: str) -> Schedule:
    """Put bounds, exclusions and jitter around a schedule; `spread` is the job's id.

    Raises ScheduleError when they cannot be read or leave nothing.
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
    """Occurs from `start_ms` to `end_ms` only, both included."""

    inner: Schedule
    start_ms: int | None
    end_ms: int | None

    @property
    def unbounded(self) -> Schedule:
        """As that of the schedule within."""
        return self.inner.unbounded

    def next_after_ms(self, ms: int) -> int | None:
        """The first occurrence within the bounds strictly after an instant."""
        if self.start_ms is not None:
            ms = max(ms, self.start_ms - 1)
        at = self.inner.next_after_ms(ms)
        return None if at is None or (self.end_ms is not None and at > self.end_ms) else at

    def latest_until_ms(self, ms: int) -> int | None:
        """The last occurrence within the bounds at or before an instant."""
        if self.end_ms is not None:
            ms = min(ms, self.end_ms)
        at = self.inner.latest_until_ms(ms)
        return None if at is None or (self.start_ms is not None and at < self.start_ms) else at

    def to_hermes(self) -> dict[str, object]:
        """Hermes knows no bounds: the schedule without them."""
        return self.inner.to_hermes()


class Excluding(Schedule, frozen=True, kw_only=True):
    """Leaves out the occurrences that fall on an exclusion."""

    inner: Schedule
    exclusions: tuple[Exclusion, ...]
    zone: Zone

    @property
    def unbounded(self) -> Schedule:
        """As that of the schedule within."""
        return self.inner.unbounded

    def next_after_ms(self, ms: int) -> int | None:
        """The first occurrence that is not excluded strictly after an instant."""
        at = self.inner.next_after_ms(ms)
        for _ in range(_MOST_EXCLUDED):
            block = None if at is None else self._block_ms(at)
            if block is None:
                return at
            at = self.inner.next_after_ms(block[1] - 1)
        return None

    def latest_until_ms(self, ms: int) -> int | None:
        """The last occurrence that is not excluded at or before an instant."""
        at = self.inner.latest_until_ms(ms)
        for _ in range(_MOST_EXCLUDED):
            block = None if at is None else self._block_ms(at)
            if block is None:
                return at
            at = self.inner.latest_until_ms(block[0] - 1)
        return None

    def to_hermes(self) -> dict[str, object]:
        """Hermes knows no exclusions: the schedule without them."""
        return self.inner.to_hermes()

    def _block_ms(self, at_ms: int) -> tuple[int, int] | None:
        """The excluded time [from, to) around an occurrence, as far as no clock changes in it."""
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
    """Delays each occurrence by whole seconds, the same for one job and occurrence everywhere.

    The delay ends before the next occurrence and not after the schedule's end, so that order and
    number of the occurrences stay.
    """

    inner: Schedule
    jitter_seconds: int
    spread: str
    end_ms: int | None

    @property
    def nominal(self) -> Schedule:
        """The schedule that is delayed."""
        return self.inner

    @property
    def unbounded(self) -> Schedule:
        """As that of the schedule within."""
        return self.inner.unbounded

    def next_after_ms(self, ms: int) -> int | None:
        """The first delayed occurrence strictly after an instant."""
        nominal = self.inner.latest_until_ms(ms)
        if nominal is not None and self._delayed(nominal) > ms:
            return self._delayed(nominal)
        upcoming = self.inner.next_after_ms(ms)
        return None if upcoming is None else self._delayed(upcoming)

    def latest_until_ms(self, ms: int) -> int | None:
        """The last delayed occurrence at or before an instant."""
        nominal = self.inner.latest_until_ms(ms)
        if nominal is not None and self._delayed(nominal) > ms:
            nominal = self.inner.latest_until_ms(nominal - 1)
        return None if nominal is None else self._delayed(nominal)

    def to_hermes(self) -> dict[str, object]:
        """Hermes knows no jitter: the schedule without it."""
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
        raise ScheduleError(f"{schedule.text!r} never runs: {', '.join(exclude)} excludes it all")
    return narrowed


def _same(schedule: Schedule) -> dict[str, Any]:
    """What a schedule shows of itself stays the same around it."""
    return {name: getattr(schedule, name) for name in Schedule.__struct_fields__}
