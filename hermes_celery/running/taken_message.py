"""The message that asks for a run, and the worker that took it."""

from __future__ import annotations

import msgspec


class TakenMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that asks for a run, and the worker that took it."""

    #: The worker's name, ending with the id of its main process.
    worker: str
    #: Celery's message id.
    id: str = ""
    #: How often the run's own tasks have handed it on.
    hop: int = 0
