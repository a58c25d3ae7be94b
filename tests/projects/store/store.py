"""Another shop whose app has the same name as the first one."""

import os

from celery import Celery

from hermes_celery import Cron

app = Celery("shop", broker=os.environ["BROKER"])
Cron(app).add("inventory", "every 1h", task="store.inventory")


@app.task
def inventory():
    """Do nothing."""
