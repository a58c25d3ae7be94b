"""A project with refused or doubtful declarations; they are correct if `MENDED` is set."""

import os
from datetime import datetime

from celery import Celery
from celery.schedules import BaseSchedule
from notes import note

from hermes_celery import Cron


class Sunset(BaseSchedule):
    """A schedule class of the user's own."""


app = Celery("refused", broker=os.environ["BROKER"])
cron = Cron(app)
if os.environ.get("MENDED"):
    app.conf.beat_schedule = {
        "good": {"task": "refused.work", "schedule": 1.0},
        "was good": {"task": "refused.work", "schedule": 60.0},
    }
else:
    app.conf.beat_schedule = {
        "good": {"task": "refused.work", "schedule": 1.0},
        "sunny": {"task": "refused.work", "schedule": Sunset()},
        "never": {
            "task": "refused.work",
            "schedule": 9.0,
            "options": {"hermes": {"overlap": "never"}},
        },
        "elsewhere": {"task": "other.work", "schedule": 3600.0},
        "too much": {"task": "refused.work", "schedule": 3600.0, "args": (1, 2, 3)},
    }
    if os.environ.get("SPOILED"):
        app.conf.beat_schedule["was good"] = {"task": "refused.work", "schedule": object()}
    cron.add("past", "2020-01-01T00:00:00", task="refused.work")
    naive = datetime.fromisoformat("2099-12-05")
    cron.add("naive", "every 10m", task="refused.work", start=naive)
cron.add("nightly", "0 2 * * *", task="refused.work")


@app.task
def work():
    """Record that this task ran."""
    note("work")
