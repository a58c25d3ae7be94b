"""A schedule of a single instant."""

from __future__ import annotations

from hermes_celery.schedule.schedule import Schedule


class Once(Schedule, frozen=True, kw_only=True):
    """Occurs once; `text` is the instant in ISO 8601 with the zone's offset."""

    at_ms: int

    def next_after_ms(self, ms: int) -> int | None:
        """Return the instant if it is strictly later, both in Unix milliseconds."""
        return self.at_ms if self.at_ms > ms else None

    def latest_until_ms(self, ms: int) -> int | None:
        """Return the instant if it is not later, both in Unix milliseconds."""
        return self.at_ms if self.at_ms <= ms else None

    def to_hermes(self) -> dict[str, object]:
        """Return the dict that Hermes stores for a one-shot."""
        return {"kind": self.kind.value, "run_at": self.text, "display": self.display}
