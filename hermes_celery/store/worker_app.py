"""The Celery app of a namespace's workers, as far as it is known, and commands that name it."""

from __future__ import annotations

from hermes_celery.settings import DEFAULT_NAMESPACE
from hermes_celery.store.database import Database
from hermes_celery.store.declarations import Declarations

OUR_APP = "hermes_celery"


def worker_app(database: Database, *, now_ms: int) -> str:
    """Return the app for `celery -A`; "" for a project's app that no living beat names.

    Raises StoreError.
    """
    living = Declarations(database).living(now_ms=now_ms).values()
    modules = {one.module for one in living}
    if len(modules) == 1:
        return modules.pop()
    keys = database.keys
    is_a_projects = modules or database.call("EXISTS", keys.managed(f"project:{keys.namespace}"))
    return "" if is_a_projects else OUR_APP


def command_options(database: Database, *, now_ms: int) -> str:
    """Return the options after `hermes-celery` for this namespace: `-A shop `, or "".

    Raises StoreError.
    """
    app, namespace = worker_app(database, now_ms=now_ms), database.keys.namespace
    if app and app != OUR_APP:
        return f"-A {app} "
    return "" if namespace == DEFAULT_NAMESPACE else f"-N {namespace} "


def worker_command(app: str, *, queue: str = "") -> str:
    """Return a command that starts a worker of an app, for display, with a queue if given."""
    options = f" -Q {queue}" if queue else ""
    if not app:
        return f"a worker of your project{f' with{options}' if options else ''}"
    return f"celery -A {app} worker{options}"


def beat_command(app: str) -> str:
    """Return a command that starts a beat of an app, for display."""
    if app == OUR_APP:
        return "`celery beat` or `up`"
    if not app:
        return "the beat of your project"
    return f"`celery -A {app} beat -S hermes`"
