"""Several schedules for one job: `0 9 * * 1-5 | 0 12 * * 0,6`."""

from __future__ import annotations

from hermes_celery.schedule.schedule import Schedule


class UnionSchedule(Schedule, frozen=True, kw_only=True):
    """Occurs when one of its parts does; parts that occur together count once."""

    parts: tuple[Schedule, ...]

    def next_after_ms(self, ms: int) -> int | None:
        """Return the first occurrence of any part strictly after an instant, in Unix ms."""
        found = [part.next_after_ms(ms) for part in self.parts]
        return min((at for at in found if at is not None), default=None)

    def latest_until_ms(self, ms: int) -> int | None:
        """Return the last occurrence of any part at or before an instant, in Unix ms."""
        found = [part.latest_until_ms(ms) for part in self.parts]
        return max((at for at in found if at is not None), default=None)
