"""Puts together what builds an app's messages, as the settings say."""

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
    """What builds the messages of an app's runs and deliveries, ours if none is given.

    The only place that makes one, so that every message is built as the settings say. `entries` and
    `in_tasks` are those of `MessageBuilder`.
    """
    # Celery costs 0.2 s that commands which only read need not pay.
    from hermes_celery.celery_app.app import configured_app
    from hermes_celery.celery_app.messages import MessageBuilder  # as above

    return MessageBuilder(
        app or configured_app(settings),
        session=SessionSource(settings.session),
        namespace=settings.namespace,
        entries=entries,
        in_tasks=in_tasks,
    )
