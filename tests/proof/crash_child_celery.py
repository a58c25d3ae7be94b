"""A real Celery worker as a child's act: one run, then a warm shutdown.

Calls count from the moment that the worker is ready, in every thread of the process: taking the
message, claim, heartbeats, finish, events, acknowledgement, presence and shutdown.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import redis.connection
from celery import Celery, signals
from celery.worker import state as worker_state

from hermes_celery.celery_app.messages import RUN_TASK
from hermes_celery.celery_app.run_task import RunTask
from hermes_celery.instant import from_ms
from hermes_celery.running.heartbeat import Heartbeats
from hermes_celery.running.runner import Runner
from hermes_celery.settings import read_settings
from hermes_celery.store import Database, connect
from hermes_celery.wiring.own_app import make_app
from tests.proof.crash_child import KEYS, NAMESPACE, NotedWork, make_runs
from tests.proof.crashing_connections import Calls, watch_class
from tests.proof.fork_server import Orders
from tests.support import HandClock


class _ActTask(RunTask):
    """The task of every run, on hand-set time; its work writes down that it started."""

    abstract = True
    orders: Orders

    def runner_here(self) -> Runner:
        """Return the runner of this process."""
        orders = self.orders
        clock = HandClock(from_ms(orders.now_ms))
        runs = make_runs(Database(connect(orders.url), keys=KEYS))
        work = NotedWork(Path(orders.starts))
        return Runner(
            runs, heartbeats=Heartbeats(runs, clock=clock), work_for=lambda _: work, clock=clock
        )


def work_as_celery(orders: Orders, calls: Calls) -> None:
    """Start a worker, let it perform one run, and stop it."""
    app = _app(orders)
    connections = redis.connection.AbstractConnection
    signals.worker_ready.connect(lambda **_: watch_class(connections, calls), weak=False)
    signals.task_postrun.connect(_stop_warmly, weak=False)
    app.Worker(
        hostname=f"w{os.getpid()}@proof",
        pool=orders.pool,
        concurrency=1,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="CRITICAL",
    ).start()


def _app(orders: Orders) -> Celery:
    # The warm-up's app listens to the same signals, and its broker does not exist.
    for name in ("celeryd_init", "worker_init", "worker_ready", "worker_shutting_down"):
        getattr(signals, name).receivers.clear()
    app = make_app(
        read_settings({"HERMES_REDIS_URL": orders.url, "HERMES_CELERY_NAMESPACE": NAMESPACE})
    )
    app.finalize()
    app.tasks.pop(RUN_TASK)
    _ActTask.orders = orders
    app.task(_ActTask.perform, name=RUN_TASK, base=_ActTask, bind=True, ignore_result=True)
    return app


def _stop_warmly(**_: Any) -> None:
    worker_state.should_stop = os.EX_OK
