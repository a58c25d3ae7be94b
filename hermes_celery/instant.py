"""Convert instants: aware UTC datetimes for people, Unix milliseconds for Redis."""

from __future__ import annotations

from datetime import UTC, datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_ms(instant: datetime) -> int:
    """Return an aware instant as Unix milliseconds, rounded down."""
    delta = instant - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


def from_ms(ms: int) -> datetime:
    """Return Unix milliseconds as an aware UTC instant."""
    return datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)


def optional_from_ms(ms: int | None) -> datetime | None:
    """Return Unix milliseconds as an aware UTC instant; None stays None."""
    return None if ms is None else from_ms(ms)


def iso(instant: datetime | None) -> str | None:
    """Return ISO 8601 with an offset, and milliseconds if they are not 0; None stays None."""
    if instant is None:
        return None
    return instant.isoformat(timespec="milliseconds" if instant.microsecond else "seconds")
