"""A project's Celery app, seen from outside: found by its name, and the namespace that it means.

celery -A shop ...    hermes-celery -A shop ...    the same app, found the same way
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hermes_celery.errors import SettingsError, error_text
from hermes_celery.interop.cron_attributes import DECLARED, NAMESPACE
from hermes_celery.settings import Settings, checked_namespace

if TYPE_CHECKING:
    from celery import Celery

_OURS = "hermes_celery"


def find(name: str) -> Celery | None:
    """The app that `celery -A name` means; None where that is our own.

    Adds the working directory to the path, as Celery does. Raises SettingsError where no app of
    that name can be imported, or it has no cron.
    """
    from celery import Celery  # costs 0.2 s that most commands need not pay

    if name.partition(":")[0].partition(".")[0] == _OURS:
        return None
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    app = _imported(name)
    if not isinstance(app, Celery):
        raise SettingsError(
            [f"--app {name} is a {type(app).__name__}, no Celery app; name the app: MODULE:NAME"]
        )
    return _with_cron(app, name)


def app_found_by_celery(app: Celery | None, *, named: str | None) -> Celery | None:
    """The app that Celery's own command line found for `-A named`; None where that is our own.

    Raises SettingsError where it was given none, or the app has no cron.
    """
    if app is None or named is None:
        raise SettingsError(
            ["no app is named: write `celery -A APP cron ...`; `hermes-celery ...` needs none"]
        )
    return None if app.conf.get("hermes_is_own_app") else _with_cron(app, named)


def _with_cron(app: Celery, name: str) -> Celery:
    if not hasattr(app, DECLARED):
        raise SettingsError(
            [
                f"the app of --app {name} has no cron: write `from hermes_celery import Cron` and "
                "`Cron(app)` below the line that makes the app"
            ]
        )
    return app


def _imported(name: str) -> Any:
    # Here to start fast, as Celery above.
    from celery.app.utils import find_app

    try:
        return find_app(name)
    except Exception as error:
        raise SettingsError(
            [
                f"--app {name} cannot be imported ({error_text(error)}); name it as "
                f"`celery -A` does, such as shop, shop.celery or shop:app, in the directory that "
                f"holds it (this is {os.getcwd()})"
            ]
        ) from error


def import_tasks(app: Celery) -> str:
    """Import the modules with an app's tasks, as its workers do; why that fails, else ""."""
    try:
        app.loader.import_default_modules()
    except Exception as error:  # noqa: BLE001 - the user's modules may raise anything
        return error_text(error)
    return ""


def with_namespace(settings: Settings, app: Celery) -> Settings:
    """The settings of a project's app with its namespace: the name of the app, unless told.

    What HERMES_CELERY_NAMESPACE says comes first, then `Cron(app, namespace=...)`. Raises
    SettingsError where the app's name cannot be a namespace.
    """
    if settings.is_namespace_given:
        return settings
    given = getattr(app, NAMESPACE, None)
    if given is not None:
        return replace(settings, namespace=given)
    if not app.main or app.main == "__main__":
        raise SettingsError(
            [
                "the Celery app has no name, and a project's jobs are kept under the name of its "
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
