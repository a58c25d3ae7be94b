"""A project monitored with Flower, whose tasks end in every possible way."""

import os
import time

from celery import Celery
from notes import note

from hermes_celery import Cron
from hermes_celery.core.policy import Policy

NEVER = "0 0 1 1 *"

app = Celery("watched", broker=os.environ["BROKER"])
app.conf.worker_send_task_events = True
cron = Cron(app)


@app.task
def fine():
    """Succeed."""
    note("fine")
    return 42


@app.task
def bad():
    """Fail."""
    raise ValueError("no such customer")


@app.task(shadow_name=lambda task, args, kwargs, options: f"own name of {args[0]}")
def named(customer):
    """Appear in Flower under a shadow name."""
    note("named", customer)


@app.task
def waiting():
    """Hang until it is cancelled."""
    note("endless")
    time.sleep(60)


@app.task(soft_time_limit=2, time_limit=20)
def endless():
    """Hang until its time limit."""
    time.sleep(60)


cron.add("nightly report", NEVER, task=fine)
cron.add("bad report", NEVER, task=bad)
cron.add("named report", NEVER, task=named, args=["c1"])
cron.add("asked report", NEVER, task=fine, options={"shadow": "asked name"})
cron.add("late report", NEVER, task=fine, options={"expires": 600})
cron.add("task hangs", NEVER, task=endless)
cron.add("task waits", NEVER, task=waiting)

for name, fields in {
    "script succeeds": {"script": "ok.sh"},
    "script fails": {"script": "full.sh", "deliver": "file://out.txt"},
    "script hangs": {"script": "slow.sh", "timeout_seconds": 1.0},
    "script is cancelled": {"script": "slow.sh"},
    "script is lost": {"script": "slow.sh", "queue": "doomed"},
    "script is tried again": {
        "script": "full.sh",
        "policy": Policy(retries=1, retry_wait_seconds=1),
    },
    "script knows a secret": {"script": "secret.sh"},
}.items():
    cron.add(name, NEVER, no_agent=True, **fields)
