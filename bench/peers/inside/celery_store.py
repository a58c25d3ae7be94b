"""Stores a Celery peer's entries as its documentation does: `python -m ...celery_store`."""

from __future__ import annotations

import os

from bench.peers.inside.celery_app import EVERY, TASK, app, entries


def store_redbeat() -> None:
    """Save each entry through RedBeat's API."""
    from celery.schedules import schedule
    from redbeat import RedBeatSchedulerEntry

    for entry in entries():
        RedBeatSchedulerEntry(
            entry.name,
            TASK,
            schedule(EVERY, app=app),
            args=[entry.name],
            last_run_at=entry.last_run_at,
            app=app,
        ).save()


def store_django() -> None:
    """Create the tables and insert a row for each entry."""
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks

    hourly = IntervalSchedule.objects.create(every=1, period=IntervalSchedule.HOURS)
    PeriodicTask.objects.bulk_create(
        [
            PeriodicTask(
                name=entry.name,
                task=TASK,
                interval=hourly,
                args=f'["{entry.name}"]',
                last_run_at=entry.last_run_at,
            )
            for entry in entries()
        ],
        batch_size=500,
    )
    PeriodicTasks.update_changed()


if __name__ == "__main__":
    {"redbeat": store_redbeat, "django": store_django}[os.environ["PEER_KIND"]]()
