"""Settings with their names from before Celery 4."""

import os
from datetime import timedelta

from celery.schedules import crontab, schedule


class Router:
    """Routes slow tasks to a queue of their own."""

    def route_for_task(self, task, *args, **kwargs):
        """Return the route of a task, or None for the default route."""
        return {"queue": "slow", "routing_key": "slow"} if task.startswith("slow.") else None


BROKER_URL = os.environ["BROKER"]
BROKER_POOL_LIMIT = 4
BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 3600}
CELERY_RESULT_BACKEND = os.environ["BROKER"]
CELERY_TASK_SERIALIZER = "json"
CELERY_RESULT_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TIMEZONE = "America/Bogota"
CELERY_ENABLE_UTC = False
CELERY_ACKS_LATE = True
CELERYD_PREFETCH_MULTIPLIER = 1
CELERYD_MAX_TASKS_PER_CHILD = 100
CELERYD_HIJACK_ROOT_LOGGER = False
CELERY_DEFAULT_QUEUE = "legacy"
CELERY_QUEUES = {
    "legacy": {"exchange": "legacy", "routing_key": "legacy"},
    "slow": {"exchange": "slow", "routing_key": "slow"},
}
CELERY_ROUTES = (Router(),)
CELERY_ANNOTATIONS = {"slow.backup": {"rate_limit": "600/m"}}
CELERYBEAT_SCHEDULE = {
    "count-every-two-seconds": {
        "task": "count",
        "schedule": timedelta(seconds=2),
        "args": (2, 2),
        "relative": True,
    },
    "poll": {"task": "poll", "schedule": schedule(run_every=2.0), "options": {"queue": "slow"}},
    "back-up-at-night": {
        "task": "slow.backup",
        "schedule": crontab(minute="00", hour="02"),
        "kwargs": {"into": "s3"},
    },
    "month-end": {
        "task": "month_end",
        "schedule": crontab(minute=0, hour=22, day_of_month="28-31", month_of_year="*/3"),
    },
}
