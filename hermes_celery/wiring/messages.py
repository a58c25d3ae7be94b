"""Builds the message builder of an app from the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_celery.core.job import SessionSource
from hermes_celery.settings import Settings

if TYPE_CHECKING:
    from hermes_celery.celery_app.messages import MessageBuilder, OccurrenceListener
    from hermes_celery.celery_app.types import Celery


def make_messages(
    settings: Settings,
    *,
    app: Celery | None = None,
    entries: OccurrenceListener | None = None,
    in_tasks: bool = True,
) -> MessageBuilder:
    """Return the builder of the messages of runs and deliveries; without `app`, for our own app.

    This is the only place that makes one, so that every message follows the settings. `entries` and
    `in_tasks` are those of `MessageBuilder`.
    """
    # Imported here to start fast: Celery costs 0.2 s, and commands that only read do not need it.
    from hermes_celery.celery_app.app import configured_app
    from hermes_celery.celery_app.messages import MessageBuilder  # as above

    return MessageBuilder(
        app or configured_app(settings),
        session=SessionSource(settings.session),
        namespace=settings.namespace,
        entries=entries,
        in_tasks=in_tasks,
    )
