"""A project that moved from RedBeat or django-celery-beat to the package's scheduler."""

import os

from celery import Celery
from notes import note

from hermes_celery import Cron

app = Celery("moved", broker=os.environ["BROKER"])
app.conf.timezone = "Europe/Berlin"
app.conf.task_routes = {"shop.*": {"queue": "celery"}}
cron = Cron(app)


@app.task(name="shop.poll")
def poll(*words, **fields):
    """Note its arguments."""
    note("poll", *words)


@app.task(name="shop.report")
def report(kind=""):
    """Note the kind of report."""
    note("report", kind)


@app.task(name="shop.dated")
def dated(since):
    """Note the type of its argument."""
    note("dated", type(since).__name__)
