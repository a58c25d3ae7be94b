"""What `Cron` leaves on an app: what it declares, where, and under which namespace."""

from __future__ import annotations

from typing import Any, Protocol

#: On an app that has a cron: what it declares, and the namespace that `Cron(app)` was given.
DECLARED = "_hermes_celery_declared"
NAMESPACE = "_hermes_celery_namespace"
#: What it declares and is no job: the reasons, by name.
REFUSED = "_hermes_celery_refused"
#: The module that made the app's first `Cron`, and that of each `add`.
MODULE = "_hermes_celery_module"
PLACES = "_hermes_celery_places"


class NamedApp(Protocol):
    """What is asked of a Celery app here."""

    main: Any


def project_of(app: NamedApp) -> str:
    """Which project an app is, for people: two of them may have the same name."""
    return f"{app.main or 'celery'} (module {getattr(app, MODULE, '?')})"


def module_of(app: NamedApp) -> str:
    """The module that has an app's `Cron(app)`; "" where nobody else can import it."""
    module = str(getattr(app, MODULE, ""))
    return "" if module in ("?", "__main__") else module


def place_of(app: NamedApp, name: str) -> str:
    """Where an app declares a job."""
    places: dict[str, str] = getattr(app, PLACES, {})
    if name in places:
        return f"cron.add in module {places[name]}"
    return entries_of(app)


def entries_of(app: NamedApp) -> str:
    """Where an app's entries stand."""
    return f"beat_schedule of app {app.main or 'celery'}"


def manager_of(app: NamedApp) -> str:
    """Who the jobs that an app declares belong to."""
    return f"project:{app.main or 'celery'}"
