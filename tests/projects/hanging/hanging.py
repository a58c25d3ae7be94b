"""A project with six jobs whose publishing hangs and one healthy job."""

import os
import time
from pathlib import Path

from celery import Celery, Task
from notes import note

from hermes_celery import Cron

app = Celery("hanging", broker=os.environ["BROKER"])
cron = Cron(app)
app.conf.beat_schedule = {
    **{name: {"task": "hanging.hangs", "schedule": 1.0} for name in ("hangs", *"bcdef")},
    "well": {"task": "hanging.well", "schedule": 1.0},
}
_GO = Path(os.environ["NOTES"]).with_name("go")


class Hanging(Task):
    """A task whose publishing waits for a file or for some seconds."""

    abstract = True

    def apply_async(self, *args, **kwargs):
        """Wait, then publish."""
        note("asked", os.getpid())
        if "SECONDS" in os.environ:
            time.sleep(float(os.environ["SECONDS"]))
        else:
            while not _GO.exists():
                time.sleep(0.05)
        return super().apply_async(*args, **kwargs)


@app.task(name="hanging.hangs", base=Hanging)
def hangs():
    """Record that this task ran."""
    note("hangs")


@app.task(name="hanging.well", bind=True)
def well(self):
    """Record that this task ran."""
    note("well", self.request.id)
