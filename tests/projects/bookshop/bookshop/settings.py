"""Settings in one module, Celery's under their prefix."""

import os

from celery.schedules import crontab

INSTALLED_APPS = ["bookshop.orders", "bookshop.mail"]
TIME_ZONE = "Europe/Athens"
USE_TZ = True

CELERY_BROKER_URL = os.environ["BROKER"]
CELERY_RESULT_BACKEND = os.environ["BROKER"]
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SERIALIZER = "json"
CELERY_RESULT_SERIALIZER = "json"
CELERY_TIMEZONE = TIME_ZONE
CELERY_TASK_TRACK_STARTED = True
CELERY_TASK_TIME_LIMIT = 30 * 60
CELERY_TASK_SOFT_TIME_LIMIT = 25 * 60
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_RESULT_EXPIRES = 3600
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 12 * 60 * 60}
CELERY_TASK_ROUTES = {
    "bookshop.mail.tasks.*": {"queue": "mail"},
    "*": {"queue": "celery"},
}
CELERY_BEAT_SCHEDULE = {
    "release-reserved-books": {
        "task": "bookshop.orders.tasks.release_reserved",
        "schedule": 2.0,
        "kwargs": {"older_than_minutes": 15},
    },
    "send-queued-mail": {
        "task": "bookshop.mail.tasks.send_queued",
        "schedule": 2,
        "options": {"expires": 30},
    },
    "morning-report": {
        "task": "bookshop.orders.tasks.report",
        "schedule": crontab(hour=7, minute=30, day_of_week="mon-fri"),
        "args": ("daily",),
    },
    "close-the-month": {
        "task": "bookshop.orders.tasks.report",
        "schedule": crontab(0, 3, day_of_month="1"),
        "args": ("monthly",),
        "options": {"queue": "mail", "expires": 3600},
    },
    "weekly-newsletter": {
        "task": "newsletter",
        "schedule": crontab(hour="9,17", minute="*/20", day_of_week="tuesday"),
    },
}
