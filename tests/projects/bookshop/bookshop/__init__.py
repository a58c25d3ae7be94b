"""A web shop laid out as a Django project: the app is loaded with the project."""

from bookshop.celery import app as celery_app

__all__ = ("celery_app",)
