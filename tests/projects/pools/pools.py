"""A project whose workers take a message only when a slot is free, or as Celery does by default."""

import os
import time

from celery import Celery
from notes import note

from hermes_celery import Cron

app = Celery("pools", broker=os.environ["BROKER"])
cron = Cron(app)
app.conf.worker_disable_prefetch = os.environ.get("PREFETCH") != "1"


@app.task
def nap():
    """Take a slot for a twentieth of a second."""
    began = time.time()
    time.sleep(0.05)
    note("nap", began)
