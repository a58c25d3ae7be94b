"""A market's Celery app with schedules."""

import os

from celery import Celery
from celery.schedules import crontab
from hermes_celery import Cron
from hermes_celery.session import get_session_env

app = Celery("market", broker=os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
app.conf.timezone = "Europe/Berlin"
# A queue of its own: other apps may use the same Redis.
app.conf.task_default_queue = "market"
cron = Cron(app)


@app.task
def report(*, full=False):
    return "all sales of the day" if full else "the day in one line"


@app.task
def clean_carts():
    return "no old carts"


@app.task
def sync_stock():
    """Fails at the first attempt of each run, as warehouses do."""
    attempt = int(get_session_env("HERMES_CRON_ATTEMPT", "1"))
    if attempt == 1:
        raise ConnectionError("the warehouse does not answer")
    return f"synced at attempt {attempt}"


@app.task
def remind(customer):
    return f"{customer}, your cart is waiting"


# An entry as Celery has it. It needs no change.
app.conf.beat_schedule = {
    "clean-carts": {"task": "market.clean_carts", "schedule": crontab(minute="*/10")},
}

# Jobs with what celery beat does not have: zones and phrases, retries, a limit for late runs.
cron.add("nightly-report", "weekdays at 2am", task=report, kwargs={"full": True})
cron.add("stock", "every 10s", task=sync_stock, retries=3, retry_wait_seconds=1)
