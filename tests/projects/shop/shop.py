"""A shop that shares its Redis with a blog: its own queue, one entry, one declared job."""

import os

from celery import Celery
from notes import note

from hermes_celery import Cron

app = Celery("shop", broker=os.environ["BROKER"])
app.conf.task_default_queue = "shop-work"
cron = Cron(app)
app.conf.beat_schedule = {"stock": {"task": "shop.stock", "schedule": 1.0}}
cron.add("nightly", "0 2 * * *", task="shop.report")


@app.task(bind=True)
def stock(self):
    """Record that this task ran, with its run id."""
    note("stock", self.request.id)


@app.task
def report():
    """Record that this task ran."""
    note("report")
