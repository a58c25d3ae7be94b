"""The documented path `hermes_celery.beat:CronScheduler`; the code is in `celery_app.scheduler`."""

from __future__ import annotations

from typing import Any

from hermes_celery.celery_app.scheduler import BeatScheduler
from hermes_celery.wiring.collaborators import ensure_collaborators

__all__ = ["CronScheduler"]


class CronScheduler(BeatScheduler):
    """The scheduler class for `celery beat`; it finds what it needs for any app."""

    def __init__(self, app: Any, *args: Any, **kwargs: Any) -> None:
        ensure_collaborators(app)
        super().__init__(app, *args, **kwargs)
