"""Settings as `django-admin startproject` writes them, as far as this example needs them."""

import os
from datetime import timedelta
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = "for-the-example-only"
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
INSTALLED_APPS = ["newsletters"]
ROOT_URLCONF = "mysite.urls"
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"},
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

USE_TZ = True
TIME_ZONE = "Europe/Berlin"

CELERY_BROKER_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
CELERY_TIMEZONE = TIME_ZONE
# A queue of its own: other apps may use the same Redis.
CELERY_TASK_DEFAULT_QUEUE = "mysite"
CELERY_BEAT_SCHEDULE = {
    "count-issues": {
        "task": "newsletters.tasks.count_issues",
        "schedule": timedelta(seconds=10),
    },
}
