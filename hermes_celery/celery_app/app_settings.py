"""The settings of a Celery app, with the server and namespace that follow from them."""

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
    """Return the settings of an app: those it was made with, else the environment's.

    A project's store is its broker, and its namespace is the name of its app. The broker is read
    each time, because Celery's command line may change it after the app was made. Raises
    SettingsError when the broker is not Redis, when it differs from the store in server, database
    or user, and when the app's name cannot be a namespace.
    """
    settings: Settings | None = app.conf.get("hermes_settings")
    if settings is None:
        settings = app.conf.hermes_settings = read_settings()
    if not app.conf.get("hermes_is_own_app"):
        return following_broker(with_namespace(settings, app), app)
    refuse_another_broker(app, address_of(settings))
    return replace(settings, broker_names=names_of(app))


def default_zone(settings: Settings, app: Celery | None) -> str:
    """Return the zone of jobs that name none: the app's, else HERMES_TIMEZONE, else the host's.

    The app's `beat_schedule` uses the same zone. Raises JobError when the app's zone is unknown.
    """
    if app is None or not app.conf.timezone:
        return settings.timezone
    # Imported here to start fast: it imports Celery, which is needed only for a given app.
    from hermes_celery.interop.beat_schedule import zone_of

    return zone_of(app)


def shared_settings(app: Celery) -> Settings | None:
    """Return the settings for the shared namespace, in which version 0.1.0 kept an app's jobs.

    None if the app's namespace has not changed since 0.1.0. Raises SettingsError.
    """
    settings = app_settings(app)
    is_own = bool(app.conf.get("hermes_is_own_app"))
    if is_own or settings.is_namespace_given or settings.namespace == DEFAULT_NAMESPACE:
        return None
    return replace(settings, namespace=DEFAULT_NAMESPACE)


def namespaces_of(app: Celery) -> frozenset[str]:
    """Return the namespaces whose runs an app's workers perform.

    They are the app's own and, while its jobs move, the shared one of 0.1.0.
    """
    shared = shared_settings(app)
    own = app_settings(app).namespace
    return frozenset((own,) if shared is None else (own, shared.namespace))


def shown_url(app: Celery) -> str:
    """Return the URL of an app's server without the password."""
    return without_password(redis_url(app_settings(app)))
