"""The Celery app of the shop."""

from celery import Celery

from bookshop import settings
from hermes_celery import Cron

app = Celery("bookshop")
app.config_from_object("bookshop.settings", namespace="CELERY")
app.autodiscover_tasks(lambda: settings.INSTALLED_APPS)
cron = Cron(app)
