"""Tests defaults of `celery beat`: overlapping runs, result cleanup, a patient shutdown."""

import os
import time

from celery import Celery
from notes import note

from hermes_celery import Cron

app = Celery("manners", broker=os.environ["BROKER"], backend=f"file://{os.environ['RESULTS']}")
cron = Cron(app)
app.conf.beat_schedule = {
    "busy": {"task": "manners.work", "schedule": 3.0, "args": ("busy", 7)},
    "calm": {
        "task": "manners.work",
        "schedule": 3.0,
        "args": ("calm", 7),
        "options": {"hermes": {"overlap": "skip"}},
    },
    "odd": {
        "task": "manners.work",
        "schedule": 3.0,
        "options": {"hermes": {"overlap": "never"}},
    },
}
cron.add("ours", "every 3s", task="manners.work", args=["ours", 7])


@app.task
def work(word, seconds):
    """Run for some seconds."""
    note(word)
    time.sleep(seconds)
    note(f"{word}-ended")
