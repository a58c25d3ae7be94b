"""The Celery task `hermes_celery.deliver`: one pass over one delivery.

Celery's own retries stay off: when it is tried again is written in the index of deliveries, where
it survives a restart, and the leader's rescue pushes the message then.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from celery import Celery, Task

from hermes_celery.compose import app_settings
from hermes_celery.compose_delivery import make_deliverer
from hermes_celery.dispatch import DELIVER_TASK

if TYPE_CHECKING:
    from hermes_celery.delivering import Deliverer


def register(app: Celery) -> None:
    """Put the task on an app."""
    app.task(
        DeliverTask.perform, name=DELIVER_TASK, base=DeliverTask, bind=True, ignore_result=True
    )


class DeliverTask(Task):  # type: ignore[misc]  # Celery carries no types
    """The task of every delivery. Its deliverer is made once per process, after any fork."""

    abstract = True
    _deliverer: tuple[int, Deliverer] | None = None

    def perform(self, delivery_id: str) -> str:
        """Send what is due; the return value shows in Flower."""
        return self._deliverer_here().deliver(delivery_id)

    def _deliverer_here(self) -> Deliverer:
        cls = type(self)
        if cls._deliverer is None or cls._deliverer[0] != os.getpid():
            cls._deliverer = (os.getpid(), make_deliverer(app_settings(self.app)))
        return cls._deliverer[1]
