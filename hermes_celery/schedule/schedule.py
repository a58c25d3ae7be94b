"""The interface of every schedule, whatever it was parsed from.

A schedule is an immutable value: it reads no clock and no environment. It has no instant before
1970-01-01 and none from 2100-01-01 on, so that every search ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from itertools import islice

import msgspec

from hermes_celery.errors import ScheduleError
from hermes_celery.instant import from_ms, optional_from_ms, to_ms


class ScheduleKind(StrEnum):
    """The kind of a schedule."""

    #: By the local clock of a time zone: cron expressions, phrases, and unions of them.
    CRON = "cron"
    #: By elapsed time: a grid of `anchor + k * period`.
    INTERVAL = "interval"
    #: A single instant.
    ONCE = "once"


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The meaning of a schedule, for people."""

    words: str
    #: The text that is stored; it parses to the same schedule.
    normal_form: str
    #: The time zone of the schedule.
    timezone: str
    #: Warnings; those about clock changes have dates if the present time was given.
    warnings: tuple[str, ...]


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all schedules; `parse_schedule` makes one from a text."""

    #: Normal form: with `timezone` and the anchor it parses to the same schedule.
    text: str
    kind: ScheduleKind
    #: IANA name or fixed offset of the schedule's time zone.
    timezone: str
    #: The text in Hermes' style: the phrase as typed, `every 120m`, `once in 1h`.
    display: str
    #: The period of an interval; None for all other schedules.
    period_seconds: float | None = None

    def next_after_ms(self, ms: int) -> int | None:
        """Return the first occurrence strictly after an instant, both in Unix milliseconds."""
        raise NotImplementedError

    def latest_until_ms(self, ms: int) -> int | None:
        """Return the last occurrence at or before an instant, both in Unix milliseconds."""
        raise NotImplementedError

    @property
    def nominal(self) -> Schedule:
        """The schedule without its jitter: the nominal instants of its occurrences."""
        return self

    @property
    def unbounded(self) -> Schedule:
        """The schedule without bounds, exclusions and jitter."""
        return self

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first occurrence strictly later than an aware instant, in UTC; None after the
        last.

        Raises ScheduleError if the instant is naive.
        """
        return optional_from_ms(self.next_after_ms(_ms(instant)))

    def latest_until(self, instant: datetime) -> datetime | None:
        """Return the last occurrence at or before an aware instant, in UTC.

        Returns None if there is none: before an interval's first point, before a single instant,
        and before 1970 in any case. Raises ScheduleError if the instant is naive.
        """
        return optional_from_ms(self.latest_until_ms(_ms(instant)))

    def between(
        self, start: datetime, end: datetime, *, limit: int | None = None
    ) -> tuple[datetime, ...]:
        """Return all occurrences from `start` to `end`, both included, in UTC; at most `limit`.

        Raises ScheduleError if an instant is naive.
        """
        return tuple(islice(self._instants(_ms_up(start), _ms(end)), limit))

    def to_hermes(self) -> dict[str, object]:
        """Return the dict that Hermes stores for this schedule."""
        return {"kind": self.kind.value, "expr": self.text, "display": self.display}

    def _instants(self, start_ms: int, end_ms: int) -> Iterator[datetime]:
        ms = self.next_after_ms(start_ms - 1)
        while ms is not None and ms <= end_ms:
            yield from_ms(ms)
            ms = self.next_after_ms(ms)


def _ms(instant: datetime) -> int:
    if instant.tzinfo is None:
        raise ScheduleError(
            f"{instant.isoformat()} has no time zone; give an aware datetime, such as "
            "datetime.now(UTC)"
        )
    return to_ms(instant)


def _ms_up(instant: datetime) -> int:
    return _ms(instant) + (1 if instant.microsecond % 1000 else 0)


def instant_ms(instant: datetime) -> int:
    """Return an aware instant as Unix milliseconds, rounded down. Raises ScheduleError if naive."""
    return _ms(instant)
