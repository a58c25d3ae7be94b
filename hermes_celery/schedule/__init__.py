"""Schedules: from a text and a time zone to instants.

    schedule = parse("weekdays at 9am", timezone="Europe/Berlin")
    schedule.next_after(now)

The package is pure: no I/O, no clock, no environment, and every search is bounded. Instants are
aware and in UTC; time zones matter only inside. croniter and cron-descriptor are imported when they
are first needed.
"""

from __future__ import annotations

from hermes_celery.errors import ScheduleError
from hermes_celery.schedule.bounds import UNBOUNDED, Bounds
from hermes_celery.schedule.durations import duration_text
from hermes_celery.schedule.hermes_schedules import from_hermes
from hermes_celery.schedule.parsing import MAX_LENGTH, bind, parse
from hermes_celery.schedule.schedule import Explanation, Schedule, ScheduleKind
from hermes_celery.schedule.time_zones import find_zone

__all__ = [
    "MAX_LENGTH",
    "UNBOUNDED",
    "Bounds",
    "Explanation",
    "Schedule",
    "ScheduleError",
    "ScheduleKind",
    "bind",
    "duration_text",
    "find_zone",
    "from_hermes",
    "parse",
]
