"""What a command opens of its scope: the verbs, what builds messages, the namespaces beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hermes_celery.cli.scope import project, read_settings
from hermes_celery.errors import StoreError, StoreUnavailable
from hermes_celery.settings import DEFAULT_NAMESPACE, Settings
from hermes_celery.store import Jobs, namespaces_beside
from hermes_celery.wiring import client as wiring
from hermes_celery.wiring.messages import make_messages
from hermes_celery.wiring.server import open_database

if TYPE_CHECKING:
    from hermes_celery.celery_app.messages import MessageBuilder
    from hermes_celery.client import Client


def messages_for(settings: Settings) -> MessageBuilder:
    """What builds the messages of the app of `-A`, else of ours."""
    return make_messages(settings, app=project())


def open_cron(settings: Settings | None = None) -> Client:
    """The verbs. Raises SettingsError or StoreError."""
    return wiring.open_cron(settings or read_settings(), app=project())


def open_cron_to_read() -> Client:
    """The verbs for those that only read. Raises SettingsError or StoreError."""
    return wiring.open_cron_to_read(read_settings(), app=project())


def other_namespaces() -> list[str]:
    """The namespaces with jobs on the same server, but for the one that this is about."""
    settings = read_settings()
    shared = open_database(replace(settings, namespace=DEFAULT_NAMESPACE))
    try:
        found = set(namespaces_beside(shared))
        if Jobs(shared).count():
            found.add(DEFAULT_NAMESPACE)
    except StoreError:
        return []  # a user of one namespace alone
    return sorted(found - {settings.namespace})


def known_namespaces(settings: Settings) -> list[str]:
    """The namespaces of projects on that server, and the one that all shared."""
    shared = open_database(replace(settings, namespace=DEFAULT_NAMESPACE))
    try:
        return sorted({DEFAULT_NAMESPACE, *namespaces_beside(shared)})
    except StoreUnavailable:
        raise
    except StoreError:
        return [DEFAULT_NAMESPACE]  # a user of other namespaces alone
