"""Schedules as in Celery's documentation and in public projects; none is due soon."""

import os
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import crontab, schedule

from hermes_celery import Cron

app = Celery("calendars", broker=os.environ["BROKER"])
app.conf.timezone = timezone(timedelta(hours=8))
cron = Cron(app)


class Lunar(crontab):
    """A schedule class of the project's own."""

    def is_due(self, last_run_at):
        """Return a due time of its own."""
        return super().is_due(last_run_at)


SCHEDULES = {
    "night": crontab(minute=0, hour="22-3"),
    "steps": crontab(minute=0, hour="20-6/2"),
    "thirds": crontab(minute=range(0, 60, 20), hour=3),
    "autumn": crontab(minute=0, hour=0, day_of_month=1, month_of_year="sept"),
    "days": crontab(minute=0, hour=9, day_of_week="tues,thur"),
    "first": crontab(minute=0, hour=22, day_of_month="1-7", day_of_week="sat"),
    "odd": crontab(minute=0, hour=0, day_of_month="*/2", day_of_week="mon"),
    "workdays": crontab(minute=0, hour=0, day_of_month="1-31", day_of_week="1-5"),
    "tokyo": crontab(minute=0, hour=9, nowfun=lambda: datetime.now(ZoneInfo("Asia/Tokyo"))),
    "fixed": crontab(minute=0, hour=9),
    "rounded": schedule(timedelta(hours=1), relative=True),
    "fraction": 90.5,
    "lunar": Lunar(minute=0),
    "naive": crontab(minute=0, nowfun=datetime.now),
    "tiny": 0.01,
}
app.conf.beat_schedule = {
    name: {"task": "calendars.nothing", "schedule": given} for name, given in SCHEDULES.items()
} | {
    "entry": ScheduleEntry(name="entry", task="calendars.nothing", schedule=3600, app=app),
    "unknown": {"task": "calendars.nothing", "schedule": 60, "enabeld": True},
    "text": {"task": "calendars.nothing", "schedule": 60, "args": "abc"},
    "idle": {"task": "calendars.nothing"},
    "later": {
        "task": "calendars.nothing",
        "schedule": crontab(minute=0, hour=9),
        "options": {"countdown": 10},
    },
    "instant": {"task": "calendars.nothing", "schedule": 60, "options": {"eta": 5}},
}


@app.task
def nothing():
    """Do nothing."""
