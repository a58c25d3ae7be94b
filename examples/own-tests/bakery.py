"""A bakery's Celery app, whose schedules are tested in `test_bakery.py`."""

import os

from celery import Celery
from celery.schedules import crontab
from hermes_celery import Cron

app = Celery("bakery", broker=os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
app.conf.timezone = "Europe/Berlin"
cron = Cron(app)


@app.task
def bake(what, *, trays=1):
    return f"{trays} trays of {what}"


@app.task
def order_flour():
    return "50 kg ordered"


cron.add("rolls", "0 4 * * 1-6", task=bake, args=["rolls"], kwargs={"trays": 12})
cron.add("christmas-stollen", "0 5 24 12 *", task=bake, args=["stollen"], retries=2)
app.conf.beat_schedule = {
    "flour": {"task": "bakery.order_flour", "schedule": crontab(hour=2, minute=30)},
}
