"""A project that had RedBeat, or django-celery-beat, and now has our scheduler."""

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
    """Ask somebody."""
    note("poll", *words)


@app.task(name="shop.report")
def report(kind=""):
    """Report to somebody."""
    note("report", kind)


@app.task(name="shop.dated")
def dated(since):
    """Look at what is new."""
    note("dated", type(since).__name__)
