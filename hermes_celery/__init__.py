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

`open_cron()` returns a `Client`, which has the verbs on jobs and runs. `Cron(app)` turns your own
Celery app into a cron; its client is `cron.client`. `JobRequest`, `Policy`, `TaskCall` and `Origin`
describe a job, and a `Client` returns `Job` and `Run`. `parse_schedule` reads a schedule. `app` is
hermes-celery's own Celery app. The exceptions are in `hermes_celery.errors`, and the session of a
run is in `hermes_celery.session`.

Names are imported when they are first used, so that `celery -A hermes_celery` works and all other
programs start fast. A renamed name works for one more release, with a DeprecationWarning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hermes_celery.celery_app.types import Celery
    from hermes_celery.client import Client
    from hermes_celery.core.job import Job, JobRequest, JobState
    from hermes_celery.core.origin import Origin
    from hermes_celery.core.policy import Policy
    from hermes_celery.core.run import Run, RunState
    from hermes_celery.core.work import TaskCall
    from hermes_celery.schedule import Schedule
    from hermes_celery.schedule import parse as parse_schedule
    from hermes_celery.wiring.client import open_cron
    from hermes_celery.wiring.project import Cron

    app: Celery
    __version__: str

__all__ = [
    "Client",
    "Cron",
    "Job",
    "JobRequest",
    "JobState",
    "Origin",
    "Policy",
    "Run",
    "RunState",
    "Schedule",
    "TaskCall",
    "__version__",
    "app",
    "open_cron",
    "parse_schedule",
]

_HOMES = {
    "Client": "hermes_celery.client",
    "Cron": "hermes_celery.wiring.project",
    "Job": "hermes_celery.core.job",
    "JobRequest": "hermes_celery.core.job",
    "JobState": "hermes_celery.core.job",
    "Origin": "hermes_celery.core.origin",
    "Policy": "hermes_celery.core.policy",
    "Run": "hermes_celery.core.run",
    "RunState": "hermes_celery.core.run",
    "Schedule": "hermes_celery.schedule",
    "TaskCall": "hermes_celery.core.work",
    "open_cron": "hermes_celery.wiring.client",
    "parse_schedule": "hermes_celery.schedule",
}
#: Public names that differ from the name in their module.
_NAMES_AT_HOME = {"parse_schedule": "parse"}
#: Names of the previous release, and their present names.
_RENAMED = {"Crontab": "Client"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    # Imported here to start fast.
    from importlib import import_module

    if name in _RENAMED:
        return _renamed(name)
    if name == "app":
        value: Any = import_module("hermes_celery.wiring.own_app").app_from_environment()
    elif name == "__version__":
        value = _version()
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), _NAMES_AT_HOME.get(name, name))
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _renamed(name: str) -> Any:
    """Return the value of a name of the previous release, with a warning."""
    # Imported here to start fast: old names are rare.
    import warnings

    now = _RENAMED[name]
    warnings.warn(
        f"hermes_celery.{name} is now hermes_celery.{now}; the old name will be removed in the "
        "next release",
        DeprecationWarning,
        # The line that imports the name.
        stacklevel=3,
    )
    return __getattr__(now)


def _version() -> str:
    """Return the installed version; "0+unknown" if the package is not installed."""
    # Imported here to start fast: the version is rarely needed.
    from importlib import metadata

    try:
        return metadata.version("hermes-celery")
    except metadata.PackageNotFoundError:
        return "0+unknown"
