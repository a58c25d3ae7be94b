"""The shop's worker module, in which somebody forgot the line of ours."""

import os

from celery import Celery
from notes import note

app = Celery("foreign", broker=os.environ["BROKER"])
app.conf.task_default_queue = "svc"


@app.task(name="svc.tick", bind=True)
def tick(self):
    """Say that it ran."""
    note("tick", self.request.id)
