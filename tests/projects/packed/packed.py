"""A project with a serializer of its own as its default and its only accepted content."""

import os

from celery import Celery
from notes import note

from hermes_celery import Cron

CODEC = os.environ["CODEC"]
app = Celery("packed", broker=os.environ["BROKER"])
if CODEC == "gzip":
    app.conf.task_compression = "gzip"
else:
    app.conf.update(task_serializer=CODEC, result_serializer=CODEC, accept_content=[CODEC])
cron = Cron(app)
cron.add("task", "every 2s", task="packed.keep", args=[1], kwargs={"b": "two"})
cron.add("script", "every 2s", script="hi.sh", no_agent=True, deliver="file://said.txt")


@app.task
def keep(a, b):
    """Note its arguments."""
    note("task", a, b)
