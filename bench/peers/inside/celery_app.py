"""The app of the Celery peers: one no-op task, hourly entries, and default settings.

Environment variables define its content, because the beat and the worker build the app as well:

    PEER_URL      the server's URL for redis-py (unix://...)
    PEER_STAMPS   the file to which the task appends the time
    PEER_JOBS     number of entries due at PEER_DUE (Unix seconds, whole)
    PEER_WARM_UP  number of additional entries that are overdue at the start
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from celery import Celery
from celery.schedules import schedule

from bench.peers.inside.stamps import Stamps

SLOTS = 4
TASK = "bench.noop"
EVERY = timedelta(hours=1)


class Entry(NamedTuple):
    """One entry, with a last run as left by a beat that was restarted."""

    name: str
    last_run_at: datetime


def entries() -> Iterator[Entry]:
    """Yield the entries that the environment defines; each is due an hour after its last run."""
    due_at = datetime.fromtimestamp(int(os.environ["PEER_DUE"]), UTC)
    for number in range(int(os.environ["PEER_WARM_UP"])):
        yield Entry(name=f"warm-up-{number}", last_run_at=due_at - 2 * EVERY)
    for number in range(int(os.environ["PEER_JOBS"])):
        yield Entry(name=f"job-{number}", last_run_at=due_at - EVERY)


def make_app() -> Celery:
    """Return an app with default settings except for broker, slots and RedBeat's URL."""
    url, stamps = os.environ["PEER_URL"], Stamps(Path(os.environ["PEER_STAMPS"]))
    app = Celery("peer", broker=url.replace("unix://", "redis+socket://", 1))
    app.conf.update(
        worker_concurrency=SLOTS,
        task_ignore_result=True,
        # Keep Celery from adding its own entry that cleans up results, since there are none.
        result_expires=None,
        redbeat_redis_url=url,
    )

    def noop(number: str) -> None:
        stamps.stamp()

    app.task(noop, name=TASK)
    return app


def beat_schedule() -> dict[str, dict[str, object]]:
    """Return the entries in the form of Celery's configuration."""
    return {
        entry.name: {
            "task": TASK,
            "schedule": schedule(EVERY),
            "args": (entry.name,),
            "last_run_at": entry.last_run_at,
        }
        for entry in entries()
    }


app = make_app()
if os.environ["PEER_KIND"] == "beat":
    app.conf.beat_schedule = beat_schedule()
