"""An app that has no cron."""

from celery import Celery

app = Celery("bare")
