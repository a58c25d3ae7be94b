"""Apps whose runs occupy a slot for 50 ms: `celery -A bench.napping:own worker`, `...:project`.

`own` is the package's app with stubbed work. `project` is a Celery app with `Cron(app)`. Both take
a message only when a slot is free. Claim, session, finish and record are real.
"""

from __future__ import annotations

import os
import time

from celery import Celery

from bench.stub import make_stub_app
from hermes_celery import Cron
from hermes_celery.celery_app.app import broker_url
from hermes_celery.settings import read_settings

SECONDS = 0.05
#: Environment of a worker; `bench.stub` reads it.
ENVIRONMENT = {"BENCH_NAP": str(SECONDS)}
TASK = "bench.nap"


def nap() -> None:
    """Occupy a slot for SECONDS."""
    time.sleep(SECONDS)


def make_project(url: str) -> tuple[Celery, Cron]:
    """Return a project with one task and its Cron, on that server."""
    app = Celery("napping", broker=broker_url(url), set_as_current=False)
    app.conf.worker_disable_prefetch = True
    app.task(nap, name=TASK)
    return app, Cron(app)


def __getattr__(name: str) -> Celery:
    """Make an app when a worker imports it."""
    if name == "own":
        return make_stub_app(read_settings())
    if name == "project":
        return make_project(os.environ["HERMES_REDIS_URL"])[0]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
