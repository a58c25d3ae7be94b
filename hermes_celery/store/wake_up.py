"""Sleeping until somebody writes something that is due earlier: a subscription with a timeout.

A message that is lost (no connection at that moment) costs little: the beat looks again at each
renewal of its lease.
"""

from __future__ import annotations

from typing import Any

from hermes_celery.store.database import Database, wrapped


class Waker:
    """One process's subscription to the wake channel; connects when first used."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._subscription: Any = None

    def wait(self, seconds: float) -> bool:
        """Sleep, but not longer than until the next wake-up call; True if one came.

        Raises StoreUnavailable.
        """
        with wrapped():
            subscription = self._subscribed()
            return subscription.get_message(timeout=max(seconds, 0.0)) is not None

    def close(self) -> None:
        """Give the connection back."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def _subscribed(self) -> Any:
        if self._subscription is None:
            subscription = self._database.client.pubsub(ignore_subscribe_messages=False)
            subscription.subscribe(self._database.keys.wake)
            self._subscription = subscription
        return self._subscription
