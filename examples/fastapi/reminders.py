"""The Celery app: reminds users."""

import os

from celery import Celery
from hermes_celery import Cron
from hermes_celery.session import get_session_env

app = Celery("reminders", broker=os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
app.conf.timezone = "UTC"
# A queue of its own: other apps may use the same Redis.
app.conf.task_default_queue = "reminders"
cron = Cron(app)


@app.task
def remind(text):
    """A real one would send a mail or a push message."""
    # Each run carries the user that its job was made for.
    user = get_session_env("HERMES_SESSION_USER_ID")
    return f"{user}: {text}"
