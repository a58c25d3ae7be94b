"""Sleep until a job with an earlier due time is written: a subscription with a timeout.

A lost wake-up message costs little: the beat reads the due index at each renewal of its lease.
"""

from __future__ import annotations

from typing import Any

from hermes_celery.store.database import Database, wrapped


class Waker:
    """One process's subscription to the wake-up channel; connects at its first use."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._subscription: Any = None

    def wait(self, seconds: float) -> bool:
        """Sleep for `seconds`, or until the next wake-up call; return True if one came.

        Raises StoreUnavailable.
        """
        with wrapped():
            subscription = self._subscribed()
            return subscription.get_message(timeout=max(seconds, 0.0)) is not None

    def close(self) -> None:
        """Close the connection."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def _subscribed(self) -> Any:
        if self._subscription is None:
            subscription = self._database.client.pubsub(ignore_subscribe_messages=False)
            subscription.subscribe(self._database.keys.wake)
            self._subscription = subscription
        return self._subscription
