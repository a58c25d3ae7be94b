"""Celery's app class, for signatures of code that only passes an app on."""

from celery import Celery

__all__ = ["Celery"]
