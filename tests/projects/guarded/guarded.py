"""A project whose broker is behind Redis Sentinel, configured with Celery's settings only."""

import os

from celery import Celery
from notes import note

from hermes_celery import Cron

app = Celery("guarded", broker=os.environ["BROKER"])
app.conf.broker_transport_options = {
    "master_name": "mymaster",
    "sentinel_kwargs": {"socket_timeout": 1.0},
    "global_keyprefix": "shop:",
    "socket_timeout": 5,
    "priority_steps": [0, 5],
    "queue_order_strategy": "priority",
    "health_check_interval": 5,
}
app.conf.beat_schedule = {
    "tick": {"task": "guarded.tick", "schedule": 1.0},
    "later": {"task": "guarded.later", "schedule": 1.0, "options": {"priority": 7}},
}
cron = Cron(app)


@app.task
def tick():
    """Record that this task ran."""
    note("tick")


@app.task
def later():
    """Record that this task ran, with a lower priority."""
    note("later")
