"""The Celery app of a scraper; all settings are in `celeryconfig`."""

from celery import Celery

from hermes_celery import Cron

app = Celery("scraper")
app.config_from_object("celeryconfig")
cron = Cron(app)
