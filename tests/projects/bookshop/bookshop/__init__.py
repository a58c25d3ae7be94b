"""A web shop laid out as a Django project, which loads the Celery app."""

from bookshop.celery import app as celery_app

__all__ = ("celery_app",)
