"""A project with or without `worker_disable_prefetch`."""

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
    """Occupy a slot for 0.05 s."""
    began = time.time()
    time.sleep(0.05)
    note("nap", began)
