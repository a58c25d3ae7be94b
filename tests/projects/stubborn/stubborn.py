"""Tasks that ignore interruption; each ends by itself after two minutes."""

import ctypes
import os
import time
from pathlib import Path

from celery import Celery
from notes import note

from hermes_celery import Cron

app = Celery("stubborn", broker=os.environ["BROKER"])
cron = Cron(app)
app.conf.task_routes = {"stubborn.swallow_in_a_thread": {"queue": "threads"}}
cron.add("swallow", "every 1d", task="stubborn.swallow")
cron.add("hold", "every 1d", task="stubborn.hold")
cron.add("thread", "every 1d", task="stubborn.swallow_in_a_thread")
cron.add("quick", "every 1d", task="stubborn.quick")
LONGEST_SECONDS = 120


def swallow_all():
    """Go on despite any exception until a file appears."""
    end, release = time.monotonic() + LONGEST_SECONDS, Path(os.environ["RELEASE"])
    while time.monotonic() < end and not release.exists():
        try:
            time.sleep(0.2)
        except Exception:  # noqa: BLE001 - the test needs a task that does this
            note("swallowed")


@app.task
def swallow():
    """Swallow every exception."""
    note("swallow", os.getpid())
    swallow_all()


@app.task
def swallow_in_a_thread():
    """Swallow every exception in a worker with threads."""
    note("thread")
    swallow_all()


@app.task
def hold():
    """Call a C function that never releases the GIL."""
    note("hold", os.getpid())
    ctypes.PyDLL(None).sleep(LONGEST_SECONDS)


@app.task
def quick():
    """Record that this task ran and end at once."""
    note("quick")
