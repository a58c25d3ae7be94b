"""Which beats live, and which shards each of them leads.

Each beat says so as often as it renews its leases, for as long as a lease lasts. All of them see
the same list, and shard number i belongs to the i-th of them, counted round and round in the order
of their names; so everybody knows its own without asking, shards are spread evenly, and a beat that
comes or goes moves them within a second. Two beats that see different lists for a moment do no
harm: a shard has one lease, and the fencing token decides.

Where there is one shard nobody joins: whoever holds its lease leads, the others stand by for it.
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
    """One beat's view of all beats."""

    def __init__(
        self, shards: Shards, *, owner: str, clock: Clock, on_broken: OnBroken = ignored
    ) -> None:
        """`on_broken` hears of a list of beats that cannot be read."""
        self._sharing = Duty("share", clock=clock, on_broken=on_broken)
        self._shards = shards
        self._owner = owner
        self._clock = clock
        self._names: list[str] = []
        self._ask_at = 0.0

    def count(self) -> int:
        """How many shards there are now, asked for anew. Raises StoreUnavailable."""
        return self._shards.count()

    def fault(self) -> RecordBroken | None:
        """What is wrong with the stored number of shards."""
        return self._shards.fault()

    def share(self, count: int) -> range:
        """The numbers of the shards, of `count`, that this beat is to lead now.

        A beat that cannot know the others tries for all: each shard has one lease. Raises
        StoreUnavailable.
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
        """How long the list is good for."""
        return max(self._ask_at - self._clock.monotonic(), 0.0) if self._names else RENEW_SECONDS

    def leave(self) -> None:
        """Say goodbye, so that the others share at once what this beat led."""
        if self._names:
            self._names = []
            self._shards.leave(self._owner)

    def _join(self) -> None:
        asked_at, now_ms = self._clock.monotonic(), self._clock.now_ms()
        living = self._shards.join(self._owner, now_ms=now_ms, dead_ms=now_ms + LEASE_MS)
        # Ours is among them, whatever somebody else's clock or hand removed meanwhile.
        self._names = sorted({*living, self._owner})
        # Asked again when the next of the others is taken for dead, if not before.
        first_ms = min(living.values()) - now_ms + 1
        self._ask_at = asked_at + min(RENEW_SECONDS, max(first_ms, 1) / 1000)
