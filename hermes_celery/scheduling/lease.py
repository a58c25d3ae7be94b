"""Leadership: decide which of many beats ticks. A split due index has one lease for each shard.

The lease is a key with an owner and an expiry of about a second. Taking it raises the term, a
counter that only rises. The term is the fencing token: every script that a tick runs compares it
first. So:

- Two beats that both believe they lead do no harm: the older one's writes answer `fenced`.
- A leader that was frozen, or cut off from Redis, stops by its own monotonic clock *before* its
  lease can have expired. It counts from before the renewal was sent, not from the answer.
- A clean stop deletes the lease and wakes the standbys, so that one takes over at once. After a
  kill -9, one takes over as soon as the key expires.
- A Redis that lost its data counts terms from one again. The earlier leader then finds another
  number, or no lease, and asks again. Each beat sends the greatest term it knows, and the count
  goes on beyond it, so a lease that is taken again never repeats a term. A server that was
  restarted or promoted may have lost only the latest terms. The first leader there skips a
  thousand numbers, so that its token was never held by a leader that the server forgot.
- Without repair, an invalid lease, term or leader, or a lease without an expiry (written by hand),
  would block every beat for ever. A beat that wants to lead repairs it: no beat can hold such a
  lease, and a repaired term starts at a number that was never reached.

Redlock is not used: one Redis holds the schedules, so the lease cannot be safer than they are.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hermes_celery.errors import LeaseLost
from hermes_celery.events import event
from hermes_celery.guards.on_broken import OnBroken, ignored
from hermes_celery.store.leases import StoredLease

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.store.database import Database

_log = logging.getLogger(__name__)

LEASE_MS = 900
#: Three tries fit into one lease.
RENEW_SECONDS = 0.25
#: The share of a lease that a leader trusts; the rest is for clocks that run at different speeds.
_TRUSTED = 0.9


class Lease:
    """One beat's view of the leadership."""

    def __init__(
        self,
        database: Database,
        *,
        owner: str,
        clock: Clock,
        shard: int = 0,
        on_broken: OnBroken = ignored,
    ) -> None:
        """Take the collaborators; `on_broken` gets each repaired lease, term or leader."""
        self._on_broken = on_broken
        self._stored = StoredLease(database, shard=shard)
        self._clock = clock
        self._owner = owner
        self._token: int | None = None
        #: The greatest term this beat has led in or stood by for.
        self._known = 0
        self._sent_at = 0.0
        self._free_at = 0.0

    @property
    def free_in_seconds(self) -> float:
        """Seconds until another beat's lease expires if nobody renews it; 0 if it may be free."""
        return max(self._free_at - self._clock.monotonic(), 0.0)

    @property
    def token(self) -> int | None:
        """The fencing token while this beat may act, else None. Does not ask Redis."""
        if self._token is None or self._age() > LEASE_MS / 1000 * _TRUSTED:
            return None
        return self._token

    def hold(self) -> int | None:
        """Take the lease, or renew it when it is time to, and return the fencing token.

        Returns None if another beat leads. Raises StoreUnavailable when Redis does not answer.
        """
        if self._token is not None and self._age() < RENEW_SECONDS:
            return self._token
        if self._token is None or not self._renew():
            self._take()
        return self.token

    def require(self) -> int:
        """Return the fencing token. Raises LeaseLost when this beat may not act."""
        token = self.token
        if token is None:
            raise LeaseLost("the lease expired before it was renewed; standing by")
        return token

    def drop(self) -> None:
        """Drop the leadership locally; `hold` may take the lease again."""
        self._token = None

    def release(self) -> None:
        """Release the lease, so that a standby takes over at once. Does nothing if not leading."""
        if self._token is None:
            return
        self._token = None
        self._stored.release(self._owner)

    def _renew(self) -> bool:
        sent_at = self._clock.monotonic()
        if self._stored.renew(self._owner, lease_ms=LEASE_MS, token=self._token or 0):
            self._sent_at = sent_at
            return True
        self._token = None
        return False

    def _take(self) -> None:
        sent_at, now_ms = self._clock.monotonic(), self._clock.now_ms()
        answer = self._stored.take(self._owner, lease_ms=LEASE_MS, now_ms=now_ms, known=self._known)
        for key, what in answer.mended:
            event(_log, "lease.mended", level=logging.WARNING, key=key, what=what)
            self._on_broken("", key, f"{what}; it was repaired")
        self._known = max(self._known, answer.term)
        if answer.is_ours:
            self._token, self._sent_at = answer.term, sent_at
        else:
            self._free_at = self._clock.monotonic() + answer.free_in_ms / 1000

    def _age(self) -> float:
        return self._clock.monotonic() - self._sent_at
