"""A blog that shares its Redis with a shop; its app gets its name and settings late."""

import os

from celery import Celery
from notes import note

from hermes_celery import Cron

app = Celery()
Cron(app)
Cron(app).add("digest", "every 1s", task="blog.digest")
app.main = "blog"
app.config_from_object(
    {"broker_url": os.environ["BROKER"], "task_default_queue": "blog-work", "timezone": "UTC"}
)


@app.task(name="blog.digest")
def digest():
    """Record that this task ran."""
    note("digest")
