"""The Celery app is loaded with the project, so that `@shared_task` finds it."""

from mysite.celery import app as celery_app

__all__ = ["celery_app"]
