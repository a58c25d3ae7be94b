"""The Celery task `hermes_celery.deliver`: one pass over one delivery.

Celery's own retries stay off: when it is tried again is written in the index of deliveries, where
it survives a restart, and the leader's rescue pushes the message then.
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
    # Of this app alone, as the task of runs is.
    app.task(
        DeliverTask.perform,
        name=DELIVER_TASK,
        base=DeliverTask,
        bind=True,
        ignore_result=True,
        shared=False,
    )


class DeliverTask(OwnTask):
    """The task of every delivery. Its deliverer is made once per process, after any fork."""

    abstract = True
    _deliverers: tuple[int, Deliverer, Deliverer | None] | None = None

    def perform(self, delivery_id: str) -> str:
        """Send what is due; the return value shows in Flower.

        Raises RunFailed when it cannot be delivered, Retry when it is tried again, and Ignore when
        it is another message's.
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
            return answer  # this user has no right there, so nothing of ours is there

    def _deliverers_here(self) -> tuple[Deliverer, Deliverer | None]:
        """That of the app's namespace, and that of the one in which 0.1.0 kept everything."""
        cls = type(self)
        if cls._deliverers is None or cls._deliverers[0] != os.getpid():
            cls._deliverers = (os.getpid(), *collaborators_of(self.app).deliverers())
        return cls._deliverers[1:]
