"""Parse a text to a schedule, in one of these grammars.

    0 9 * * 1-5          cron with five to seven fields; @daily and so on; CRON_TZ=Zone before it
    every monday 9am     a phrase: days and times of the local clock
    every 1h30m, 0.5s    an interval, anchored at `now`
    in 45m               once, counted from `now`
    2027-03-28T14:00     once; local time unless it has an offset
    ... delayed 10s      a fixed time after each occurrence
    ... | ...            several schedules for one job

A text is read once per time zone and cached, so that jobs with the same text share its compiled
form. For each job only its anchor and its id are added.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import Final

import msgspec

from hermes_celery.errors import ScheduleError
from hermes_celery.schedule.bounds import UNBOUNDED, Bounds, restrict
from hermes_celery.schedule.compiling import compile_cron
from hermes_celery.schedule.cron_expression import CronExpression
from hermes_celery.schedule.cron_fields import columns, split_fields
from hermes_celery.schedule.delayed import Delayed
from hermes_celery.schedule.durations import duration_text, is_duration, read_duration_ms
from hermes_celery.schedule.interval import Interval
from hermes_celery.schedule.moments import looks_like_moment, once_at, once_ms, read_moment
from hermes_celery.schedule.phrases import cron_of, refuse, starts_like_a_phrase
from hermes_celery.schedule.schedule import Schedule, ScheduleKind, instant_ms
from hermes_celery.schedule.spread import has_spread, resolve
from hermes_celery.schedule.time_zones import find_zone
from hermes_celery.schedule.union import UnionSchedule

#: Longer texts are refused: no schedule needs them, and parsing stays cheap.
MAX_LENGTH: Final = 256

_ALIASES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_DELAYED = re.compile(
    r"(?P<inner>.*\S)\s+delayed\s+(?:by\s+)?(?P<by>.+)", re.ASCII | re.IGNORECASE | re.DOTALL
)
_ZONE_PREFIX = re.compile(r"(?:CRON_)?TZ=(\S*)\s+(.*)", re.ASCII | re.IGNORECASE | re.DOTALL)


def parse(
    text: str,
    *,
    timezone: str | None = None,
    now: datetime | None = None,
    spread: str = "",
    bounds: Bounds = UNBOUNDED,
) -> Schedule:
    """Parse a schedule.

    `timezone` (IANA name or offset, UTC by default) is the time zone of the schedule. `now` (aware)
    anchors intervals at `now + k * period`, on whole milliseconds; without it they are anchored at
    the Unix epoch, and relative text (`in 30m`) is refused. `spread` is the job's id, which decides
    the values of `H` and of jitter. `bounds` leave out occurrences and delay them.

    Raises ScheduleError if the text is invalid, does not exist in the time zone, or can never run.
    """
    if not isinstance(text, str):
        raise refuse(text, "is not a text")
    return bind(
        text,
        timezone=timezone or "UTC",
        anchor_ms=None if now is None else instant_ms(now),
        spread=spread,
        bounds=bounds,
    )


def bind(
    text: str,
    *,
    timezone: str,
    anchor_ms: int | None,
    spread: str,
    bounds: Bounds = UNBOUNDED,
) -> Schedule:
    """Do the same as `parse`, with instants in Unix milliseconds; a tick calls it for every job."""
    schedule = _read(text, timezone).bind(anchor_ms=anchor_ms, spread=spread)
    return schedule if bounds is UNBOUNDED else restrict(schedule, bounds, spread=spread)


def cron_schedule(text: str, *, expression: str, timezone: str, display: str) -> CronExpression:
    """Return the schedule of a cron expression in a zone; `text` is the text with its `H`."""
    compiled = compile_cron(expression)
    return CronExpression(
        text=text,
        kind=ScheduleKind.CRON,
        timezone=timezone,
        display=display,
        pattern=compiled.pattern,
        zone=find_zone(timezone),
        expression=expression,
        fixed_time=compiled.fixed_time,
    )


def interval(
    period_ms: int, *, anchor_ms: int | None, timezone: str, display: str | None = None
) -> Interval:
    """Return the schedule of a period; without an anchor its grid starts at the Unix epoch."""
    minutes, rest_ms = divmod(period_ms, 60_000)
    text = f"every {duration_text(period_ms)}"
    return Interval(
        text=text,
        kind=ScheduleKind.INTERVAL,
        timezone=timezone,
        display=display or (text if rest_ms else f"every {minutes}m"),
        period_seconds=period_ms / 1000 if period_ms % 1000 else period_ms // 1000,
        anchor_ms=anchor_ms or 0,
        period_ms=period_ms,
    )


class _Reading(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed text that is not yet bound to a job."""

    def bind(self, *, anchor_ms: int | None, spread: str) -> Schedule:
        raise NotImplementedError


class _SharedReading(_Reading, frozen=True, kw_only=True):
    """A complete schedule, which all jobs share."""

    schedule: Schedule

    def bind(self, *, anchor_ms: int | None, spread: str) -> Schedule:
        return self.schedule


class _SpreadReading(_Reading, frozen=True, kw_only=True):
    """A cron expression with `H`."""

    text: str
    timezone: str

    def bind(self, *, anchor_ms: int | None, spread: str) -> Schedule:
        return cron_schedule(
            self.text,
            expression=resolve(self.text, spread),
            timezone=self.timezone,
            display=self.text,
        )


class _IntervalReading(_Reading, frozen=True, kw_only=True):
    """An interval without its anchor."""

    template: Interval

    def bind(self, *, anchor_ms: int | None, spread: str) -> Schedule:
        same = self.template
        return Interval(
            text=same.text,
            kind=ScheduleKind.INTERVAL,
            timezone=same.timezone,
            display=same.display,
            period_seconds=same.period_seconds,
            anchor_ms=anchor_ms or 0,
            period_ms=same.period_ms,
        )


class _RelativeReading(_Reading, frozen=True, kw_only=True):
    """A duration counted from `now`."""

    text: str
    after_ms: int
    timezone: str

    def bind(self, *, anchor_ms: int | None, spread: str) -> Schedule:
        if anchor_ms is None:
            raise ScheduleError(
                f"{self.text!r} counts from now, but the present time was not given; "
                "pass now=... or write an ISO time"
            )
        return once_ms(
            anchor_ms + self.after_ms,
            timezone=self.timezone,
            display=f"once in {duration_text(self.after_ms)}",
        )


class _DelayedReading(_Reading, frozen=True, kw_only=True):
    """A reading whose occurrences are delayed."""

    inner: _Reading
    delay_ms: int

    def bind(self, *, anchor_ms: int | None, spread: str) -> Schedule:
        inner = self.inner.bind(anchor_ms=anchor_ms, spread=spread)
        late = f" delayed {duration_text(self.delay_ms)}"
        return Delayed(
            text=f"{inner.text}{late}",
            kind=inner.kind,
            timezone=inner.timezone,
            display=f"{inner.display}{late}",
            inner=inner,
            delay_ms=self.delay_ms,
        )


class _UnionReading(_Reading, frozen=True, kw_only=True):
    """Several readings for one job."""

    parts: tuple[_Reading, ...]
    timezone: str
    display: str

    def bind(self, *, anchor_ms: int | None, spread: str) -> Schedule:
        parts = tuple(part.bind(anchor_ms=anchor_ms, spread=spread) for part in self.parts)
        return UnionSchedule(
            text=" | ".join(self._text(part) for part in parts),
            kind=ScheduleKind.CRON,
            timezone=self.timezone,
            display=self.display,
            parts=parts,
        )

    def _text(self, part: Schedule) -> str:
        prefix = "" if part.timezone == self.timezone else f"CRON_TZ={part.timezone} "
        return prefix + part.text


@lru_cache(maxsize=8192)
def _read(text: str, timezone: str) -> _Reading:
    if len(text) > MAX_LENGTH:
        raise ScheduleError(
            f"a schedule of {len(text)} characters is too long; use {MAX_LENGTH} or less"
        )
    if not text.isascii():
        raise _not_ascii(text)
    return _read_zoned(text.strip(), timezone)


def _not_ascii(text: str) -> ScheduleError:
    odd = next(character for character in text if not character.isascii())
    if 5 <= len(split_fields(text)) <= 7:
        column = next(column for column in columns(text) if odd in column.text)
        column.fail(f"contains {odd!r}")
    return refuse(text, f"contains {odd!r}, which a schedule cannot contain")


def _read_zoned(text: str, timezone: str) -> _Reading:
    prefix = _ZONE_PREFIX.fullmatch(text)
    if prefix:
        timezone, text = prefix[1], prefix[2].strip()
    find_zone(timezone)
    if "|" not in text:
        return _read_one(text, timezone)
    parts = tuple(_read_part(text, part.strip(), timezone) for part in text.split("|"))
    return _UnionReading(parts=parts, timezone=timezone, display=text)


def _read_part(text: str, part: str, timezone: str) -> _Reading:
    if not part:
        raise refuse(text, "has nothing on one side of '|'")
    return _read_zoned(part, timezone)


def _read_one(text: str, timezone: str) -> _Reading:
    lowered = " ".join(text.lower().split())
    if not lowered:
        raise refuse(text, "is empty")
    late = _DELAYED.fullmatch(text)
    if late:
        inner = _read_one(late["inner"], timezone)
        return _DelayedReading(inner=inner, delay_ms=read_duration_ms(late["by"]))
    if lowered.startswith("@"):
        return _read_alias(text, lowered, timezone)
    if looks_like_moment(text):
        return _SharedReading(schedule=once_at(read_moment(text), timezone=timezone))
    words = lowered.partition(" ")
    if words[0] == "in" and words[2]:
        return _RelativeReading(text=text, after_ms=read_duration_ms(words[2]), timezone=timezone)
    if is_duration(lowered) or (words[0] in ("every", "each") and is_duration(words[2])):
        return _every(lowered if is_duration(lowered) else words[2], timezone)
    if starts_like_a_phrase(lowered):
        return _read_phrase(text, timezone)
    return _read_cron(text, timezone)


def _every(duration: str, timezone: str) -> _IntervalReading:
    period_ms = read_duration_ms(duration)
    return _IntervalReading(template=interval(period_ms, anchor_ms=None, timezone=timezone))


def _read_alias(text: str, lowered: str, timezone: str) -> _Reading:
    if lowered in _ALIASES:
        return _cron(_ALIASES[lowered], timezone, display=text)
    if lowered == "@reboot":
        raise ScheduleError(
            "'@reboot' is not a time: many machines share one schedule, and a job does not belong "
            "to one machine; use 'in 1m' or a cron expression"
        )
    every = lowered.removeprefix("@every ")
    if every != lowered:
        return _every(every, timezone)
    raise ScheduleError(f"{text!r} is unknown; use one of {', '.join(_ALIASES)}")


def _read_phrase(text: str, timezone: str) -> _Reading:
    parts = tuple(_cron(expression, timezone, display=text) for expression in cron_of(text))
    return (
        parts[0] if len(parts) == 1 else _UnionReading(parts=parts, timezone=timezone, display=text)
    )


def _read_cron(text: str, timezone: str) -> _Reading:
    expression = " ".join(text.split())
    words = len(expression.split())
    # The user probably meant a phrase: there are few words, and the first begins with a letter.
    if words == 1 or (words < 5 and expression[0].isalpha()):
        raise refuse(text)
    if has_spread(expression):
        _check_spread(expression)
        return _SpreadReading(text=expression, timezone=timezone)
    return _cron(expression, timezone, display=expression)


def _check_spread(expression: str) -> None:
    resolved = resolve(expression, "")
    try:
        compile_cron(resolved)
    except ScheduleError as error:
        raise ScheduleError(str(error).replace(repr(resolved), repr(expression))) from None


def _cron(expression: str, timezone: str, *, display: str) -> _SharedReading:
    schedule = cron_schedule(expression, expression=expression, timezone=timezone, display=display)
    return _SharedReading(schedule=schedule)
