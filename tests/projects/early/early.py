"""A project that is started before its Redis server."""

import os

from celery import Celery
from notes import note

from hermes_celery import Cron

app = Celery("early", broker=os.environ["BROKER"])
app.conf.broker_connection_retry_on_startup = os.environ.get("PATIENT", "yes") == "yes"
app.conf.beat_schedule = {"tick": {"task": "early.tick", "schedule": 1.0}}
cron = Cron(app)


@app.task
def tick():
    """Record that this task ran."""
    note("tick")
