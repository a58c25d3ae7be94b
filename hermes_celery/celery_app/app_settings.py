"""The settings of a Celery app, and the server and namespace that they mean."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hermes_celery.celery_app.broker import following_broker, names_of, refuse_another_broker
from hermes_celery.celery_app.project_app import with_namespace
from hermes_celery.masking.server_urls import without_password
from hermes_celery.settings import DEFAULT_NAMESPACE, Settings, address_of, read_settings, redis_url

if TYPE_CHECKING:
    from celery import Celery


def app_settings(app: Celery) -> Settings:
    """The settings of an app: those it was made with, else the environment's.

    A project's store is its broker, and its namespace the name of its app. Celery's command line
    may still change the broker after the app was made, so it is looked at each time. Raises
    SettingsError when the broker is no Redis, or another server, database or user than the store,
    and when the app's name cannot be a namespace.
    """
    settings: Settings | None = app.conf.get("hermes_settings")
    if settings is None:
        settings = app.conf.hermes_settings = read_settings()
    if not app.conf.get("hermes_is_own_app"):
        return following_broker(with_namespace(settings, app), app)
    refuse_another_broker(app, address_of(settings))
    return replace(settings, broker_names=names_of(app))


def default_zone(settings: Settings, app: Celery | None) -> str:
    """The zone of jobs that name none: the one that the app sets, else HERMES_TIMEZONE, the host's.

    So it is for an app's `beat_schedule`. Raises JobError where the app's is none.
    """
    if app is None or not app.conf.timezone:
        return settings.timezone
    # Here to start fast: it imports Celery, which an app that is given has done.
    from hermes_celery.interop.beat_schedule import zone_of

    return zone_of(app)


def shared_settings(app: Celery) -> Settings | None:
    """The settings for the namespace in which version 0.1.0 kept an app's jobs.

    None where that is the app's namespace, today as then. Raises SettingsError.
    """
    settings = app_settings(app)
    is_own = bool(app.conf.get("hermes_is_own_app"))
    if is_own or settings.is_namespace_given or settings.namespace == DEFAULT_NAMESPACE:
        return None
    return replace(settings, namespace=DEFAULT_NAMESPACE)


def namespaces_of(app: Celery) -> frozenset[str]:
    """The namespaces whose runs an app's workers perform: its own, and the one that it leaves."""
    shared = shared_settings(app)
    own = app_settings(app).namespace
    return frozenset((own,) if shared is None else (own, shared.namespace))


def shown_url(app: Celery) -> str:
    """The server of an app, without its password."""
    return without_password(redis_url(app_settings(app)))
