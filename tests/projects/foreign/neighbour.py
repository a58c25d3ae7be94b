"""A service with schedules and a namespace of its own."""

import os

from celery import Celery
from notes import note

from hermes_celery import Cron

app = Celery("neighbour", broker=os.environ["BROKER"])
cron = Cron(app)


@app.task(name="svc.tick", bind=True)
def tick(self):
    """Record that this task ran."""
    note("tick", self.request.id)
