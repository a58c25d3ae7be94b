"""A project that runs tasks eagerly, as test settings do."""

import os

from celery import Celery

from hermes_celery import Cron

app = Celery("eager", broker=os.environ["BROKER"])
cron = Cron(app)
app.conf.task_always_eager = True
