"""A Celery app without a `Cron`."""

from celery import Celery

app = Celery("bare")
