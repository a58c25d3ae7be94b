"""A shop whose schedules name tasks of a service that knows nothing of ours."""

import os

from celery import Celery
from notes import note

from hermes_celery import Cron
from hermes_celery.session import get_session_env

app = Celery("foreign", broker=os.environ["BROKER"])
cron = Cron(app)
SECONDS = float(os.environ.get("EVERY", "1"))
#: A service of its own, and a queue that this project's workers may consume as well.
app.conf.beat_schedule = {
    "tick": {"task": "svc.tick", "schedule": SECONDS, "options": {"queue": "svc"}},
    "both": {"task": "svc.both", "schedule": SECONDS, "options": {"queue": "both"}},
}


@app.task(name="svc.both", bind=True, max_retries=3)
def both(self):
    """Fail once and retry, as both code bases define it."""
    note("ours", self.request.id, get_session_env("HERMES_CRON_RUN_ID"), self.request.retries)
    if not self.request.retries:
        raise self.retry(countdown=0)
