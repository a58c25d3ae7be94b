"""Reads the jobs that an app declares, without a server.

The leading beat writes the same jobs to Redis (`declarer`). This module writes nothing, and knows
neither who else declares jobs in the namespace nor which jobs are paused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from hermes_celery.celery_app.types import Celery
from hermes_celery.core.job import Job
from hermes_celery.core.job_checks import define
from hermes_celery.errors import HermesCeleryError
from hermes_celery.interop.beat_schedule import declared_of, declared_twice, requests_of
from hermes_celery.interop.cron_attributes import manager_of, place_of
from hermes_celery.scheduling.declared_jobs import managed_id


@dataclass(frozen=True, slots=True, kw_only=True)
class AppDeclarations:
    """The declared jobs of one app, by name."""

    jobs: dict[str, Job]
    #: The reasons of refused declarations, by name.
    refused: dict[str, str]


def declarations_of(app: Celery, *, now: datetime, default_timezone: str) -> AppDeclarations:
    """Return the jobs that `cron.add` and `beat_schedule` declare, as if created at `now`.

    `default_timezone` is the zone of jobs that name none, if the app sets none either.
    """
    entries, refused_entries = requests_of(app)
    added, refused_additions = declared_of(app, default_timezone=default_timezone)
    twice = declared_twice(app)
    for name in twice:
        # The declaration of `cron.add` counts, even if it is refused.
        entries.pop(name, None)
        refused_entries.pop(name, None)
    refused = {**twice, **refused_entries, **refused_additions}
    manager = manager_of(app)
    jobs: dict[str, Job] = {}
    for name, request in {**entries, **added}.items():
        try:
            spec, first = define(
                request,
                job_id=managed_id(manager, name),
                now=now,
                default_timezone=default_timezone,
            )
        except HermesCeleryError as error:
            refused[name] = str(error)
            continue
        spec = msgspec.structs.replace(spec, managed_by=manager, declared_in=place_of(app, name))
        jobs[name] = Job(spec=spec, next_run_at=first)
    return AppDeclarations(jobs=jobs, refused=refused)
