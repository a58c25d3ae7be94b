"""The shop's worker module without `Cron(app)`."""

import os

from celery import Celery
from notes import note

app = Celery("foreign", broker=os.environ["BROKER"])


@app.task(name="foreign.forgotten", bind=True)
def forgotten(self):
    """Record that this task ran."""
    note("forgotten", self.request.id)
