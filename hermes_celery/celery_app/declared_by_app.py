"""Reads the jobs that an app declares, without a server.

The leading beat writes the same jobs to Redis (`declarer`). This module writes nothing, and knows
neither who else declares jobs in the namespace nor which jobs are paused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hermes_celery.celery_app.types import Celery
from hermes_celery.core.job import Job
from hermes_celery.errors import HermesCeleryError
from hermes_celery.interop.beat_schedule import declared_of, declared_twice, requests_of
from hermes_celery.interop.cron_attributes import manager_of, place_of
from hermes_celery.scheduling.declared_jobs import DeclaredJobs, declared_job


@dataclass(frozen=True, slots=True, kw_only=True)
class AppRequests:
    """The declarations of one app that can be read; a request may still be no valid job."""

    declared: DeclaredJobs
    #: The reasons of refused declarations, by name.
    refused: dict[str, str]
    #: Entries of `beat_schedule` that do not count, because `cron.add` declares their names too.
    twice: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppDeclarations:
    """The declared jobs of one app, by name."""

    jobs: dict[str, Job]
    #: The reasons of refused declarations, by name.
    refused: dict[str, str]


def read_requests(app: Celery, *, default_timezone: str) -> AppRequests:
    """Return what `cron.add` and `beat_schedule` declare.

    `default_timezone` is the zone of jobs that name none, if the app sets none either.
    """
    entries, refused_entries = requests_of(app)
    added, refused_additions = declared_of(app, default_timezone=default_timezone)
    twice = declared_twice(app)
    for name in twice:
        # The declaration of `cron.add` counts, even if it is refused.
        entries.pop(name, None)
        refused_entries.pop(name, None)
    return AppRequests(
        declared=DeclaredJobs(
            manager=manager_of(app),
            requests={**entries, **added},
            default_timezone=default_timezone,
            place_of=lambda name: place_of(app, name),
        ),
        refused={**refused_entries, **refused_additions},
        twice=twice,
    )


def declarations_of(app: Celery, *, now: datetime, default_timezone: str) -> AppDeclarations:
    """Return the jobs that `cron.add` and `beat_schedule` declare, as if created at `now`.

    `default_timezone` is the zone of jobs that name none, if the app sets none either.
    """
    read = read_requests(app, default_timezone=default_timezone)
    refused = {**read.twice, **read.refused}
    jobs: dict[str, Job] = {}
    for name in read.declared.requests:
        try:
            jobs[name] = declared_job(read.declared, name, now=now)
        except HermesCeleryError as error:
            refused[name] = str(error)
    return AppDeclarations(jobs=jobs, refused=refused)
