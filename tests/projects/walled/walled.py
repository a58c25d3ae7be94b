"""A project whose user on the server may do no more than it must."""

import os
import time

from celery import Celery
from notes import note

from hermes_celery import Cron

app = Celery("shop", broker=os.environ["BROKER"])
app.conf.broker_transport_options = {"global_keyprefix": os.environ.get("KEYPREFIX", "")}
if "SEP" in os.environ:
    app.conf.broker_transport_options |= {"sep": os.environ["SEP"], "priority_steps": [0, 5]}
app.conf.worker_send_task_events = True
app.conf.beat_schedule = {
    "tick": {"task": "shop.tick", "schedule": 1.0},
    "last": {"task": "shop.last", "schedule": 1.0, "options": {"priority": 9}},
}
cron = Cron(app)
cron.add("slow", "every 1h", task="shop.slow")


@app.task(name="shop.tick")
def tick():
    """Say that it ran."""
    note("tick")


@app.task(name="shop.slow")
def slow():
    """Take a slot until it is ended."""
    note("slow")
    time.sleep(100)


@app.task(name="shop.last")
def last():
    """The same, at the lowest priority."""
    note("last")
