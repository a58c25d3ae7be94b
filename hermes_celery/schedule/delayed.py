"""A schedule that runs some time after each of its occurrences: `0 9 * * * delayed 10s`.

That is what Celery's `countdown` means in an entry of `beat_schedule`. The delay is elapsed time.
"""

from __future__ import annotations

from hermes_celery.schedule.schedule import Schedule, ScheduleKind


class Delayed(Schedule, frozen=True, kw_only=True):
    """Occurs `delay_ms` after each occurrence of another schedule."""

    inner: Schedule
    delay_ms: int

    def next_after_ms(self, ms: int) -> int | None:
        """The first delayed occurrence strictly after an instant."""
        at = self.inner.next_after_ms(ms - self.delay_ms)
        return None if at is None else at + self.delay_ms

    def latest_until_ms(self, ms: int) -> int | None:
        """The last delayed occurrence at or before an instant."""
        at = self.inner.latest_until_ms(ms - self.delay_ms)
        return None if at is None else at + self.delay_ms

    def to_hermes(self) -> dict[str, object]:
        """Hermes knows no delay and cannot read the text; a grid and an instant go without it."""
        if self.kind is ScheduleKind.CRON:
            return super().to_hermes()
        return {**self.inner.to_hermes(), "display": self.display}
