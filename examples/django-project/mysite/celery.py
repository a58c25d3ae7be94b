"""The Celery app of the project, and its cron."""

import os

from celery import Celery
from hermes_celery import Cron

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

app = Celery("mysite")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

cron = Cron(app)
cron.add("forget-old-issues", "daily at 4am", task="newsletters.tasks.forget_old_issues")
