"""The shop's worker module, in which somebody forgot the line of ours."""

import os

from celery import Celery
from notes import note

app = Celery("foreign", broker=os.environ["BROKER"])


@app.task(name="foreign.forgotten", bind=True)
def forgotten(self):
    """Say that it ran."""
    note("forgotten", self.request.id)
