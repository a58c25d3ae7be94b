"""A project's Celery app, found by its name, and the namespace of its jobs.

celery -A shop ...    hermes-celery -A shop ...    the same app, found the same way
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hermes_celery.errors import SettingsError, cut, error_text, with_article
from hermes_celery.interop.cron_attributes import DECLARED, NAMESPACE
from hermes_celery.settings import Settings, checked_namespace

if TYPE_CHECKING:
    from celery import Celery

_OURS = "hermes_celery"


def find(name: str) -> Celery | None:
    """Return the app that `celery -A name` finds; None for our own app.

    Adds the working directory to the path, as Celery does. Raises SettingsError when no app of that
    name can be imported, or it has no cron.
    """
    from celery import Celery  # here to start fast: it costs 0.2 s, and few commands need it

    if name.partition(":")[0].partition(".")[0] == _OURS:
        return None
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    app = _imported(name)
    if not isinstance(app, Celery):
        raise SettingsError(
            [
                f"--app {cut(name)} is {with_article(type(app).__name__)}, not a Celery app; write "
                "MODULE:NAME"
            ]
        )
    return _with_cron(app, name)


def app_found_by_celery(app: Celery | None, *, named: str | None) -> Celery | None:
    """Return the app that Celery's own command line found for `-A named`; None for our own app.

    Raises SettingsError when `-A` was not given, or the app has no cron.
    """
    if app is None or named is None:
        raise SettingsError(
            ["no app is given: write `celery -A APP cron ...`, or use `hermes-celery ...`"]
        )
    return None if app.conf.get("hermes_is_own_app") else _with_cron(app, named)


def _with_cron(app: Celery, name: str) -> Celery:
    if not hasattr(app, DECLARED):
        raise SettingsError(
            [
                f"the app of --app {name} has no cron: write `from hermes_celery import Cron` and "
                "`Cron(app)` below the line that creates the app"
            ]
        )
    return app


def _imported(name: str) -> Any:
    # Imported here to start fast, as Celery above.
    from celery.app.utils import find_app

    try:
        return find_app(name)
    except Exception as error:
        why = error_text(error).replace(name, cut(name))
        raise SettingsError(
            [
                f"--app {cut(name)} cannot be imported ({why}); write it as for "
                f"`celery -A`, such as shop, shop.celery or shop:app, and call the command in the "
                f"directory that holds it (this is {os.getcwd()})"
            ]
        ) from error


def import_tasks(app: Celery) -> str:
    """Import the modules with an app's tasks, as its workers do; return the error's text or ""."""
    try:
        app.loader.import_default_modules()
    except Exception as error:  # noqa: BLE001 - the user's modules may raise anything
        return error_text(error)
    return ""


def with_namespace(settings: Settings, app: Celery) -> Settings:
    """Return the settings of a project's app with its namespace.

    The namespace is HERMES_CELERY_NAMESPACE, else that of `Cron(app, namespace=...)`, else the
    app's name. Raises SettingsError when the app's name cannot be a namespace.
    """
    if settings.is_namespace_given:
        return settings
    given = getattr(app, NAMESPACE, None)
    if given is not None:
        return replace(settings, namespace=given)
    if not app.main or app.main == "__main__":
        raise SettingsError(
            [
                "the Celery app has no name, but a project's jobs are stored under the name of its "
                'app: write Celery("shop", ...), or Cron(app, namespace="shop")'
            ]
        )
    try:
        return replace(settings, namespace=checked_namespace(app.main))
    except ValueError as error:
        raise SettingsError(
            [
                f"the name of the Celery app cannot be the namespace of its jobs: {error}; "
                'write Cron(app, namespace="shop")'
            ]
        ) from None
