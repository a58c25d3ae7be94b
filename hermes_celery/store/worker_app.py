"""Which Celery app the workers of a namespace are started with, as far as anybody has said."""

from __future__ import annotations

from hermes_celery.settings import DEFAULT_NAMESPACE
from hermes_celery.store.database import Database
from hermes_celery.store.declarations import Declarations

OUR_APP = "hermes_celery"


def worker_app(database: Database, *, now_ms: int) -> str:
    """As `celery -A` takes it; "" where it is a project's that no living beat names.

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
    """What follows `hermes-celery` in a command about this namespace: `-A shop `, or nothing.

    Raises StoreError.
    """
    app, namespace = worker_app(database, now_ms=now_ms), database.keys.namespace
    if app and app != OUR_APP:
        return f"-A {app} "
    return "" if namespace == DEFAULT_NAMESPACE else f"-N {namespace} "


def worker_command(app: str, *, queue: str = "") -> str:
    """What starts a worker of that app, for people, on a queue if one is given."""
    options = f" -Q {queue}" if queue else ""
    if not app:
        return f"a worker of your project{f' with{options}' if options else ''}"
    return f"celery -A {app} worker{options}"


def beat_command(app: str) -> str:
    """What starts a beat of that app, for people."""
    if app == OUR_APP:
        return "`celery beat` or `up`"
    if not app:
        return "the beat of your project"
    return f"`celery -A {app} beat -S hermes_celery.beat:CronScheduler`"
