"""A shop whose schedules name tasks of a service that does not use the package."""

import os

from celery import Celery
from notes import note

from hermes_celery import Cron
from hermes_celery.session import get_session_env

app = Celery("foreign", broker=os.environ["BROKER"])
cron = Cron(app)
#: Tasks of another service, of both code bases, and of a worker module without `Cron(app)`.
app.conf.beat_schedule = {
    "tick": {"task": "svc.tick", "schedule": 1.0, "options": {"queue": "svc"}},
    "both": {"task": "svc.both", "schedule": 1.0, "options": {"queue": "both"}},
    "mixed": {"task": "svc.mixed", "schedule": 1.0, "options": {"queue": "mixed"}},
    "forgotten": {"task": "foreign.forgotten", "schedule": 1.0, "options": {"queue": "shop"}},
}


@app.task(name="svc.both", bind=True, max_retries=3)
def both(self):
    """Fail once and retry, as both code bases define it."""
    note("ours", self.request.id, get_session_env("HERMES_CRON_RUN_ID"), self.request.retries)
    if not self.request.retries:
        raise self.retry(countdown=0)


@app.task(name="svc.mixed", bind=True)
def mixed(self):
    """Record that this task ran."""
    note("mixed-ours", get_session_env("HERMES_CRON_RUN_ID"))
