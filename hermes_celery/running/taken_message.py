"""Which message asks for a run, and which worker took it."""

from __future__ import annotations

import msgspec


class TakenMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The message that asks for a run, and who took it."""

    #: The worker, with the id of its main process.
    worker: str
    #: Of Celery.
    id: str = ""
    #: How often the run's own tasks have sent it on.
    hop: int = 0
