"""A project whose own code publishes tasks slowly."""

import os
import time

from celery import Celery, Task
from notes import note

from hermes_celery import Cron


class Slow(Task):
    """A task that is published slowly."""

    abstract = True

    def apply_async(self, args=None, kwargs=None, **options):
        """Wait 0.3 s, or `DAWDLES` seconds, and publish."""
        note("builds", options["task_id"])
        time.sleep(float(os.environ.get("DAWDLES", "0.3")))
        return super().apply_async(args, kwargs, **options)


app = Celery("dawdling", broker=os.environ["BROKER"])
cron = Cron(app)
app.conf.timezone = "Europe/Berlin"


@app.task(base=Slow)
def slow(name):
    """Record that this task ran."""
    note("slow", name)


@app.task
def plain(name):
    """Record that this task ran."""
    note("plain", name)


app.conf.beat_schedule = {
    **{
        f"slow-{n}": {
            "task": "dawdling.slow",
            "schedule": float(os.environ.get("EVERY", "20")),
            "args": (f"slow-{n}",),
        }
        for n in range(int(os.environ.get("SLOW", "8")))
    },
    "plain": {"task": "dawdling.plain", "schedule": 1, "args": ("plain",)},
}
