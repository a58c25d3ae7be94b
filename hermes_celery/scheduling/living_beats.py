"""Keep the list of living beats, and assign each beat its shards.

Each beat registers as often as it renews its leases, and is listed for as long as a lease lasts.
All beats see the same list. With n beats, sorted by name, shard number i belongs to beat i modulo
n. So each beat knows its shards without asking, shards are spread evenly, and a beat that comes or
goes moves them within a second. Two beats that see different lists for a moment do no harm: a shard
has one lease, and the fencing token decides.

With one shard no beat registers: the holder of its lease leads, the others stand by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_celery.guards.contained_duty import Duty
from hermes_celery.guards.on_broken import OnBroken, ignored
from hermes_celery.scheduling.lease import LEASE_MS, RENEW_SECONDS

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.errors import RecordBroken
    from hermes_celery.store import Shards


class LivingBeats:
    """One beat's view of all living beats."""

    def __init__(
        self, shards: Shards, *, owner: str, clock: Clock, on_broken: OnBroken = ignored
    ) -> None:
        """Take the collaborators; `on_broken` gets an unreadable list of beats."""
        self._sharing = Duty("share", clock=clock, on_broken=on_broken)
        self._shards = shards
        self._owner = owner
        self._clock = clock
        self._names: list[str] = []
        self._ask_at = 0.0

    def count(self) -> int:
        """Read the number of shards from Redis. Raises StoreUnavailable."""
        return self._shards.count()

    def fault(self) -> RecordBroken | None:
        """Return the fault of the stored number of shards, or None."""
        return self._shards.fault()

    def share(self, count: int) -> range:
        """Return the numbers of the shards, below `count`, that this beat leads now.

        If the list of beats is unreadable, returns all shards: the lease of each still admits one
        leader only. Raises StoreUnavailable.
        """
        return self._sharing.attempt(lambda: self._share(count), range(count))

    def _share(self, count: int) -> range:
        if count == 1:
            self.leave()
            return range(1)
        if not self._names or self._clock.monotonic() >= self._ask_at:
            self._join()
        return range(self._names.index(self._owner), count, len(self._names))

    @property
    def asks_in_seconds(self) -> float:
        """Seconds until the list is read again."""
        return max(self._ask_at - self._clock.monotonic(), 0.0) if self._names else RENEW_SECONDS

    def leave(self) -> None:
        """Unregister, so that the other beats take over this beat's shards at once."""
        if self._names:
            self._names = []
            self._shards.leave(self._owner)

    def _join(self) -> None:
        asked_at, now_ms = self._clock.monotonic(), self._clock.now_ms()
        living = self._shards.join(self._owner, now_ms=now_ms, dead_ms=now_ms + LEASE_MS)
        # Our own name belongs to the list, even if another beat or a person removed it meanwhile.
        self._names = sorted({*living, self._owner})
        # Read the list again when the next beat would count as dead, or earlier.
        first_ms = min(living.values()) - now_ms + 1
        self._ask_at = asked_at + min(RENEW_SECONDS, max(first_ms, 1) / 1000)
