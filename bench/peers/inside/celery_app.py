"""The app of the Celery peers: one no-op task, hourly entries, and defaults for everything else.

What it is to hold comes from the environment, because a beat and a worker build it too:

    PEER_URL      the server, as redis-py spells it (unix://...)
    PEER_STAMPS   the file that the task writes an instant into
    PEER_JOBS     how many entries are due at PEER_DUE (Unix seconds, whole)
    PEER_WARM_UP  how many more entries are overdue from the start
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
    """One entry, with the last run of a beat that was stopped and started again."""

    name: str
    last_run_at: datetime


def entries() -> Iterator[Entry]:
    """Every entry that the environment asks for; each is due an hour after its last run."""
    due_at = datetime.fromtimestamp(int(os.environ["PEER_DUE"]), UTC)
    for number in range(int(os.environ["PEER_WARM_UP"])):
        yield Entry(name=f"warm-up-{number}", last_run_at=due_at - 2 * EVERY)
    for number in range(int(os.environ["PEER_JOBS"])):
        yield Entry(name=f"job-{number}", last_run_at=due_at - EVERY)


def make_app() -> Celery:
    """An app on defaults: nothing but the broker, the slots and RedBeat's address is set."""
    url, stamps = os.environ["PEER_URL"], Stamps(Path(os.environ["PEER_STAMPS"]))
    app = Celery("peer", broker=url.replace("unix://", "redis+socket://", 1))
    app.conf.update(
        worker_concurrency=SLOTS,
        task_ignore_result=True,
        # Celery would add an entry of its own, to clean up results that there are none of.
        result_expires=None,
        redbeat_redis_url=url,
    )

    def noop(number: str) -> None:
        stamps.stamp()

    app.task(noop, name=TASK)
    return app


def beat_schedule() -> dict[str, dict[str, object]]:
    """The entries as plain Celery takes them from its configuration."""
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
