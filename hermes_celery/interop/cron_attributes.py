"""The attributes that `Cron` sets on an app: its declarations, their places, its namespace."""

from __future__ import annotations

from typing import Any, Protocol

#: On an app with a cron: the declared jobs, and the namespace given to `Cron(app)`.
DECLARED = "_hermes_celery_declared"
NAMESPACE = "_hermes_celery_namespace"
#: The reasons of refused declarations, by name.
REFUSED = "_hermes_celery_refused"
#: The module that made the app's first `Cron`, and the module of each `add`, by job name.
MODULE = "_hermes_celery_module"
PLACES = "_hermes_celery_places"


class NamedApp(Protocol):
    """The part of a Celery app that is used here."""

    main: Any


def project_of(app: NamedApp) -> str:
    """Describe an app's project for people; the module tells apart two apps of the same name."""
    return f"{app.main or 'celery'} (module {getattr(app, MODULE, '?')})"


def module_of(app: NamedApp) -> str:
    """Return the module that has an app's `Cron(app)`; "" if no other process can import it."""
    module = str(getattr(app, MODULE, ""))
    return "" if module in ("?", "__main__") else module


def place_of(app: NamedApp, name: str) -> str:
    """Return the place in an app's code where a job is declared, for display."""
    places: dict[str, str] = getattr(app, PLACES, {})
    if name in places:
        return f"cron.add in module {places[name]}"
    return entries_of(app)


def entries_of(app: NamedApp) -> str:
    """Return the place of an app's `beat_schedule`, for display."""
    return f"beat_schedule of app {app.main or 'celery'}"


def manager_of(app: NamedApp) -> str:
    """Return the manager id of the jobs that an app declares."""
    return f"project:{app.main or 'celery'}"
