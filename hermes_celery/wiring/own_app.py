"""Builds our own Celery app from settings: the one that `-A hermes_celery` names."""

from __future__ import annotations

import click

from hermes_celery.celery_app.app import configured_app
from hermes_celery.celery_app.app_settings import app_settings
from hermes_celery.celery_app.types import Celery
from hermes_celery.errors import SettingsError
from hermes_celery.settings import Settings, read_settings
from hermes_celery.wiring.collaborators import hook_app


def make_app(settings: Settings) -> Celery:
    """Return a Celery app for these settings, with our tasks and hooks on it."""
    app = configured_app(settings)
    hook_app(app)
    return app


def app_from_environment() -> Celery:
    """Return the app that `-A hermes_celery` names. Raises SettingsError.

    Celery's own command line would print that error as a traceback of two screens. There, it
    becomes one sentence on stderr and exit code 1.
    """
    try:
        app = make_app(read_settings())
        app_settings(app)
        return app
    except SettingsError as error:
        if click.get_current_context(silent=True) is None:
            raise
        raise SystemExit(f"Error: {error}") from None
