"""Entries left in Django's database by django-celery-beat are reported; CI installs it for this."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("django_celery_beat", reason="django-celery-beat is not installed")

_LOOK = """
import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django_celery_beat"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "beat.sqlite3"}},
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()

import fakeredis
from django.core.management import call_command
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from hermes_celery.store.keys import Keys
from hermes_celery.interop.orphaned_entries import orphaned_entries
from hermes_celery.store import Database, Jobs
from hermes_celery.store.redbeat import RedBeat

database = Database(fakeredis.FakeRedis(decode_responses=True), keys=Keys(namespace="shop"))
look = lambda: orphaned_entries(Jobs(database), RedBeat(database))
print(look())  # the tables do not exist yet
call_command("migrate", verbosity=0)
print(look())
every = IntervalSchedule.objects.create(every=5, period="minutes")
for name, enabled in (("poll", True), ("off", False)):
    PeriodicTask.objects.create(name=name, task="shop.poll", interval=every, enabled=enabled)
print(look())
"""


def test_enabled_entries_in_djangos_database_are_reported(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LOOK],
        cwd=tmp_path, env={"PYTHONPATH": root}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    none_yet, none, after_adding = done.stdout.splitlines() or [done.stderr, "", ""]
    assert (none_yet, none) == ("[]", "[]")
    assert "1 entry of django-celery-beat in Django's database" in after_adding
    assert "(poll)" in after_adding
