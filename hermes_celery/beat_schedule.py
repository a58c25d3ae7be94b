"""Celery's own `beat_schedule`, read as jobs.

A `crontab` becomes a cron expression in the app's zone, a `timedelta` or a number of seconds an
interval; runs of an entry overlap as those of Celery's beat do (`celery_ways`). What cannot be said
here is refused with the reason, entry by entry: `solar`, a `crontab` with both days limited (Celery
runs it where both match, cron where either does), schedules of the user's own classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from celery import Celery
from celery.schedules import crontab, schedule

from hermes_celery.celery_ways import policy_of, with_defaults
from hermes_celery.errors import JobError
from hermes_celery.job import JobRequest
from hermes_celery.work import TaskCall


def requests_of(app: Celery) -> tuple[dict[str, JobRequest], dict[str, str]]:
    """The app's entries as requests by name, and the reasons of those that cannot be taken."""
    taken: dict[str, JobRequest] = {}
    refused: dict[str, str] = {}
    for name, entry in with_defaults(app).items():
        try:
            taken[str(name)] = _request(str(name), entry, timezone=str(app.timezone))
        except JobError as error:
            refused[str(name)] = str(error)
    return taken, refused


def _request(name: str, entry: Mapping[str, Any], *, timezone: str) -> JobRequest:
    options = dict(entry.get("options") or {})
    policy = policy_of(options)
    queue = options.pop("queue", None)
    return JobRequest(
        schedule=text_of(entry["schedule"]),
        timezone=timezone,
        name=name,
        policy=policy,
        queue=None if queue is None else str(getattr(queue, "name", queue)),
        priority=options.pop("priority", None),
        task=TaskCall(
            name=str(entry["task"]),
            args=list(entry.get("args") or ()),
            kwargs=dict(entry.get("kwargs") or {}),
            options=options,
        ),
    )


def text_of(given: Any) -> str:
    """A Celery schedule as a schedule's text here. Raises JobError."""
    if isinstance(given, crontab):
        return _cron_text(given)
    period = given.run_every if type(given) is schedule else given
    if isinstance(period, (int, float)) and not isinstance(period, bool):
        period = timedelta(seconds=period)
    if isinstance(period, str):
        return period
    if not isinstance(period, timedelta):
        raise JobError(f"{given!r} is not understood; use a crontab, a timedelta or seconds")
    seconds = period.total_seconds()
    if seconds < 1 or seconds != int(seconds):
        raise JobError(f"an interval of {seconds:g} s is not a whole number of seconds")
    return f"every {int(seconds)}s"


def _cron_text(given: crontab) -> str:
    days = (given._orig_day_of_month, given._orig_day_of_week)
    if all(_field(day) != "*" for day in days):
        raise JobError(
            "its crontab limits both day_of_month and day_of_week, which Celery reads as 'and' and "
            "cron as 'or'; make it two entries, or check the day in the task"
        )
    return " ".join(
        _field(part)
        for part in (
            given._orig_minute,
            given._orig_hour,
            given._orig_day_of_month,
            given._orig_month_of_year,
            given._orig_day_of_week,
        )
    )


def _field(part: Any) -> str:
    if isinstance(part, (set, frozenset, list, tuple)):
        return ",".join(str(value) for value in sorted(part))
    return str(part).replace(" ", "")
