"""A plain Celery service: no word of ours in it."""

import os

from celery import Celery
from notes import note

app = Celery("svc", broker=os.environ["BROKER"])
app.conf.task_default_queue = "svc"


@app.task(bind=True)
def tick(self):
    """Say that it ran."""
    note("tick", self.request.id)


@app.task(bind=True)
def both(self):
    """Say that it ran."""
    note("theirs", self.request.id)


@app.task(bind=True)
def mixed(self):
    """Say that it ran."""
    note("mixed-theirs", self.request.id)
