"""The smallest project: one task, one entry of `beat_schedule`, two lines for the package."""

import os

from celery import Celery
from notes import note

from hermes_celery import Cron

app = Celery("plain", broker=os.environ["BROKER"])
cron = Cron(app)
app.conf.beat_schedule = {"tick": {"task": "plain.tick", "schedule": 1.0}}


@app.task
def tick():
    """Record that this task ran."""
    note("tick")
