"""Intervals: a grid of elapsed time that does not drift and needs no time zone."""

from __future__ import annotations

from hermes_celery.schedule.months import HORIZON_SECONDS
from hermes_celery.schedule.schedule import Schedule

_HORIZON_MS = HORIZON_SECONDS * 1000


class Interval(Schedule, frozen=True, kw_only=True):
    """Occurs at `anchor + k * period` for every k from 1 on."""

    anchor_ms: int
    period_ms: int

    def next_after_ms(self, ms: int) -> int | None:
        """Return the first grid point strictly after an instant, both in Unix milliseconds."""
        steps = max((ms - self.anchor_ms) // self.period_ms + 1, 1)
        at = self.anchor_ms + steps * self.period_ms
        return at if at < _HORIZON_MS else None

    def latest_until_ms(self, ms: int) -> int | None:
        """Return the last grid point at or before an instant; None before the first one."""
        steps = (min(ms, _HORIZON_MS - 1) - self.anchor_ms) // self.period_ms
        return self.anchor_ms + steps * self.period_ms if steps >= 1 else None

    def to_hermes(self) -> dict[str, object]:
        """Return Hermes' dict, in whole minutes; other periods also keep their seconds."""
        minutes, rest_ms = divmod(self.period_ms, 60_000)
        stored: dict[str, object] = {"kind": self.kind.value, "minutes": minutes}
        if rest_ms:
            stored["seconds"] = self.period_seconds
        return {**stored, "display": self.display}
