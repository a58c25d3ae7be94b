"""A project whose beat is monitored, as Sentry Crons does it."""

import functools
import os

from celery import Celery
from celery.beat import Scheduler
from notes import note

from hermes_celery import Cron

app = Celery("checked_in", broker=os.environ["BROKER"])
cron = Cron(app)
app.conf.beat_schedule = {
    "tick": {"task": "checked_in.tick", "schedule": 2.0},
}
cron.add("declared", "every 3s", task="checked_in.tick")
cron.add("mistaken", "every 3s", task="checked_in.tick", args=["too", "many"])
original = Scheduler.apply_entry


@functools.wraps(original)
def check_in(*args, **kwargs):
    """Note the entry of a check-in and add a header to its message."""
    scheduler, entry = args[0], args[1]
    kind = type(entry.schedule).__name__
    seconds = entry.schedule.run_every.total_seconds()
    note("entry", entry.name, scheduler.app.main, kind, seconds)
    headers = entry.options.pop("headers", {})
    headers["check-in"] = entry.name
    entry.options["headers"] = headers
    return original(*args, **kwargs)


Scheduler.apply_entry = check_in


@app.task(bind=True)
def tick(self):
    """Note the headers and the id of the message."""
    get = self.request.get
    note("ran", get("check-in"), get("celery_beat_task"), self.request.id)
