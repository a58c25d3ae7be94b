"""Opens what a command needs of its scope: the client, the message builder, other namespaces."""

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
    """Return the message builder of the app of `-A`, else of our own app."""
    return make_messages(settings, app=project())


def open_cron(settings: Settings | None = None) -> Client:
    """Open a client. Raises SettingsError or StoreError."""
    return wiring.open_cron(settings or read_settings(), app=project())


def open_cron_to_read() -> Client:
    """Open a client for commands that only read. Raises SettingsError or StoreError."""
    return wiring.open_cron_to_read(read_settings(), app=project())


def other_namespaces() -> list[str]:
    """Return the other namespaces with jobs on the same server, sorted."""
    settings = read_settings()
    shared = open_database(replace(settings, namespace=DEFAULT_NAMESPACE))
    try:
        found = set(namespaces_beside(shared))
        if Jobs(shared).count():
            found.add(DEFAULT_NAMESPACE)
    except StoreError:
        return []  # the Redis user may access one namespace only
    return sorted(found - {settings.namespace})


def known_namespaces(settings: Settings) -> list[str]:
    """Return the namespaces of projects on the server, and `hermes`, sorted."""
    shared = open_database(replace(settings, namespace=DEFAULT_NAMESPACE))
    try:
        return sorted({DEFAULT_NAMESPACE, *namespaces_beside(shared)})
    except StoreUnavailable:
        raise
    except StoreError:
        return [DEFAULT_NAMESPACE]  # the Redis user may access other namespaces only
