"""The Celery task `hermes_celery.deliver`: one attempt at one delivery.

Celery's own retries stay off. The time of the next attempt is in the index of deliveries, where it
survives a restart, and the leader's rescue pushes the message then.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from celery import Celery

from hermes_celery.celery_app.collaborators import collaborators_of
from hermes_celery.celery_app.flower_texts import OwnTask, RunFailed
from hermes_celery.celery_app.messages import DELIVER_TASK
from hermes_celery.core.run import DeliveryState
from hermes_celery.errors import StoreError, StoreUnavailable

if TYPE_CHECKING:
    from hermes_celery.delivering.deliverer import Deliverer


def register(app: Celery) -> None:
    """Put the task on an app."""
    # Not shared: the task belongs to this app alone, as the task of runs does.
    app.task(
        DeliverTask.perform,
        name=DELIVER_TASK,
        base=DeliverTask,
        bind=True,
        ignore_result=True,
        shared=False,
    )


class DeliverTask(OwnTask):
    """The task of every delivery; it makes its deliverer once per process, after any fork."""

    abstract = True
    _deliverers: tuple[int, Deliverer, Deliverer | None] | None = None

    def perform(self, delivery_id: str) -> str:
        """Send what is due; Flower shows the return value.

        Raises RunFailed when it cannot be delivered, Retry when another attempt follows, and Ignore
        when another message performs this delivery.
        """
        answer = self._delivered(delivery_id)
        if answer == DeliveryState.FAILED:
            raise RunFailed(f"not delivered; see `hermes-celery runs --json`, run {delivery_id}")
        if answer == DeliveryState.PENDING:
            self.comes_again("not delivered yet")
        if answer == "taken":
            self.not_executed(answer)
        return answer

    def _delivered(self, delivery_id: str) -> str:
        here, shared = self._deliverers_here()
        answer = here.deliver(delivery_id)
        if answer != "gone" or shared is None:
            return answer
        try:
            return shared.deliver(delivery_id)
        except StoreUnavailable:
            raise
        except StoreError:
            return answer  # without permission there, this user has no delivery there

    def _deliverers_here(self) -> tuple[Deliverer, Deliverer | None]:
        """Return the deliverers of the app's namespace and of the shared one of 0.1.0."""
        cls = type(self)
        if cls._deliverers is None or cls._deliverers[0] != os.getpid():
            cls._deliverers = (os.getpid(), *collaborators_of(self.app).deliverers())
        return cls._deliverers[1:]
