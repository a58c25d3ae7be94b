"""A project whose Redis user has only the documented permissions."""

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
    """Record that this task ran."""
    note("tick")


@app.task(name="shop.slow")
def slow():
    """Occupy a slot until it is ended."""
    note("slow")
    time.sleep(100)


@app.task(name="shop.last")
def last():
    """Record that this task ran, with the lowest priority."""
    note("last")
