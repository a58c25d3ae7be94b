"""A schedule that runs a fixed time after each of its occurrences: `0 9 * * * delayed 10s`.

This is the meaning of Celery's `countdown` in an entry of `beat_schedule`. The delay is elapsed
time.
"""

from __future__ import annotations

from hermes_celery.schedule.schedule import Schedule, ScheduleKind


class Delayed(Schedule, frozen=True, kw_only=True):
    """Occurs `delay_ms` after each occurrence of another schedule."""

    inner: Schedule
    delay_ms: int

    def next_after_ms(self, ms: int) -> int | None:
        """Return the first delayed occurrence strictly after an instant."""
        at = self.inner.next_after_ms(ms - self.delay_ms)
        return None if at is None else at + self.delay_ms

    def latest_until_ms(self, ms: int) -> int | None:
        """Return the last delayed occurrence at or before an instant."""
        at = self.inner.latest_until_ms(ms - self.delay_ms)
        return None if at is None else at + self.delay_ms

    def to_hermes(self) -> dict[str, object]:
        """Return the schedule for Hermes, which has no delays.

        An interval or a single instant is returned without its delay.
        """
        if self.kind is ScheduleKind.CRON:
            return super().to_hermes()
        return {**self.inner.to_hermes(), "display": self.display}
