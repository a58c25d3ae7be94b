"""Celery's class of apps, for the signatures of those who only hand one on."""

from celery import Celery

__all__ = ["Celery"]
