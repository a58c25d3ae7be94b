"""hermes-celery: cron for many machines, on Celery and Redis.

     CLI   Python API   import from Hermes
       \\       |          /
        v      v         v
      +---------------- Redis / Valkey ----------------+
      |  jobs   due index   runs   lease   Celery queue |
      +-----^-------------------------------|-----------+
            | advance.lua, one batch        | claim / heartbeat / finish.lua
            |                               v
       beat (leads)                 worker: claim -> session -> runner -> output
       beat (stands by)

`open_cron()` gives the verbs on jobs and runs; `Cron(app)` makes a Celery app of one's own a cron;
`app` is ours, found lazily so that `celery -A hermes_celery` works and everything else starts fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hermes_celery.celery_app.types import Celery
    from hermes_celery.core.job import JobRequest
    from hermes_celery.wiring.client import open_cron
    from hermes_celery.wiring.project import Cron

    app: Celery
    __version__: str

__all__ = ["Cron", "JobRequest", "__version__", "app", "open_cron"]

_HOMES = {
    "Cron": "hermes_celery.wiring.project",
    "JobRequest": "hermes_celery.core.job",
    "open_cron": "hermes_celery.wiring.client",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for."""
    from importlib import import_module

    if name == "app":
        value: Any = import_module("hermes_celery.wiring.own_app").app_from_environment()
    elif name == "__version__":
        value = _version()
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _version() -> str:
    """The installed version; where nothing is installed, one that says so."""
    from importlib import metadata

    try:
        return metadata.version("hermes-celery")
    except metadata.PackageNotFoundError:
        return "0+unknown"
