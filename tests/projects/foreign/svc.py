"""A Celery service that does not use the package."""

import os

from celery import Celery
from notes import note

app = Celery("svc", broker=os.environ["BROKER"])
app.conf.task_default_queue = "svc"


@app.task(bind=True)
def tick(self):
    """Record that this task ran."""
    note("tick", self.request.id)


@app.task(bind=True)
def both(self):
    """Record that this task ran."""
    note("theirs", self.request.id)


@app.task(bind=True)
def mixed(self):
    """Record that this task ran."""
    note("mixed-theirs", self.request.id)
