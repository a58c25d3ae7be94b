"""A Celery project of one's own: `Cron(app)` makes its app a cron.

    app = Celery("shop", broker="redis://...")
    cron = Cron(app)
    cron.add("nightly", "0 2 * * *", task="shop.tasks.report", timezone="Europe/Berlin")

and `celery -A shop beat -S hermes_celery.beat:CronScheduler` beside the workers that are there
already. What is declared with `add`, and what stands in `app.conf.beat_schedule`, is written to
Redis when a beat takes the lead, and removed when it is declared no more; importing the module
connects to nothing. Jobs for the moment are made with `cron.client`, whose verbs are those of the
command line.

Store and broker are one Redis: that of the app.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from functools import cached_property
from typing import Any

from hermes_celery.celery_app.app_settings import app_settings
from hermes_celery.celery_app.declared_by_app import AppDeclarations, declarations_of
from hermes_celery.celery_app.types import Celery
from hermes_celery.client import Client
from hermes_celery.core.job import Job, JobRequest
from hermes_celery.core.job_checks import checked_content, request_of
from hermes_celery.core.schedule_text import text_of, zone_name
from hermes_celery.core.task_call import call_of, late_text, text_mapping
from hermes_celery.errors import HermesCeleryError, JobError
from hermes_celery.interop.cron_attributes import (
    DECLARED,
    MODULE,
    NAMESPACE,
    PLACES,
    REFUSED,
)
from hermes_celery.schedule import parse
from hermes_celery.settings import Settings, checked_namespace, read_settings
from hermes_celery.wiring.client import open_cron
from hermes_celery.wiring.collaborators import hook_app


class Cron:
    """The cron of one Celery app."""

    def __init__(
        self, app: Celery, *, namespace: str | None = None, settings: Settings | None = None
    ) -> None:
        """Hook the app. Connects to nothing, and reads the app's configuration only when needed.

        `namespace` keeps the project's jobs apart from others on the same Redis; by default it is
        the app's name, and where HERMES_CELERY_NAMESPACE is set, what that says. `settings` stand
        in place of the environment's. A second `Cron` on one app is the same cron. Raises JobError
        for a namespace that cannot be, or another than the first `Cron` of the app was given.
        """
        self.app = app
        if namespace is not None:
            _choose_namespace(app, namespace)
        if settings is not None:
            app.conf.hermes_settings = settings
        if not hasattr(app, DECLARED):
            setattr(app, DECLARED, {})
            setattr(app, REFUSED, {})
            setattr(app, PLACES, {})
            setattr(app, MODULE, _caller())
            hook_app(app)
        self._declared: dict[str, JobRequest] = getattr(app, DECLARED)
        self._refused: dict[str, str] = getattr(app, REFUSED)

    def add(
        self,
        name: str,
        schedule: Any,
        *,
        task: Any = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        timezone: str | tzinfo | None = None,
        **fields: Any,
    ) -> None:
        """Declare a job that this project has, under a name of its own.

        `schedule` is a text as on the command line, or a crontab, timedelta or number of seconds as
        in `beat_schedule`. `task` is a task, its name or its signature, which `args`, `kwargs` and
        `options` (they go to its `apply_async`) join as in Celery's `Signature.clone`. Further
        fields are those of JobRequest and of Policy, so that scripts, prompts and requests can be
        declared too, and `retries=3` says what to do when it fails.

        What cannot be a job keeps neither the module from being imported nor the other jobs from
        running: it is refused where people look (`list`, `show`, `status`, `doctor`, the beat's
        log), and a job of that name from before goes on. Raises JobError for a name that is no text
        or is taken.
        """
        if not isinstance(name, str):
            raise JobError(f"name is {name!r}; it must be a text")
        if name in self._declared or name in self._refused:
            raise JobError(f"the project declares two jobs named {name!r}; give one another name")
        getattr(self.app, PLACES)[name] = _caller()
        work = {"task": task, "args": args, "kwargs": kwargs, "options": options}
        try:
            request = _request(work, {**fields, "name": name}, schedule, timezone=timezone)
        except HermesCeleryError as error:
            self._refused[name] = str(error)
        else:
            self._declared[name] = request

    @cached_property
    def client(self) -> Client:
        """The verbs on all jobs and runs. Raises SettingsError or StoreError."""
        return open_cron(app_settings(self.app), app=self.app)

    def declared(self, *, now: datetime | None = None) -> dict[str, Job]:
        """Return the declared jobs by name, as a beat would write them at `now`, without a server.

        They are the jobs of `add` and of `app.conf.beat_schedule`. `now` is an aware instant, by
        default the present; `next_run_at` is the first occurrence after it, and intervals begin at
        it. Raises SettingsError for environment variables that make no sense.
        """
        return self._declarations(now).jobs

    def refused(self) -> dict[str, str]:
        """Return why declarations cannot be jobs, by their names, without a server.

        Raises SettingsError for environment variables that make no sense.
        """
        return self._declarations(None).refused

    def _declarations(self, now: datetime | None) -> AppDeclarations:
        settings: Settings = self.app.conf.get("hermes_settings") or read_settings()
        return declarations_of(
            self.app, now=now or datetime.now(UTC), default_timezone=settings.timezone
        )

    @property
    def crontab(self) -> Client:
        """What `client` was called in 0.1.0."""
        warnings.warn(
            "Cron.crontab is called Cron.client now, and goes away with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.client


#: A schedule is only read here, to refuse one that cannot be.
_ANY_TIME = datetime.fromisoformat("2000-01-01T00:00:00+00:00")


def _request(
    work: Mapping[str, Any],
    fields: Mapping[str, Any],
    schedule: Any,
    *,
    timezone: str | tzinfo | None,
) -> JobRequest:
    """What is declared as a request, checked. Raises JobError or ScheduleError."""
    given = text_mapping(work["options"], name="options")
    call = None
    if work["task"] is not None:
        call = call_of(work["task"], args=work["args"], kwargs=work["kwargs"], options=given)
        given = call.options
    request = request_of(
        {
            **fields,
            "schedule": late_text(text_of(schedule), given),
            "task": call,
            "timezone": None if timezone is None else zone_name(timezone),
        }
    )
    checked_content(request)
    parse(request.schedule, timezone=request.timezone or "UTC", now=_ANY_TIME)
    return request


def _caller() -> str:
    """The module that called into this one."""
    return str(sys._getframe(2).f_globals.get("__name__", "?"))


def _choose_namespace(app: Celery, namespace: str) -> None:
    try:
        checked_namespace(namespace)
    except ValueError as error:
        raise JobError(f"Cron(app, namespace=...): {error}") from None
    before = getattr(app, NAMESPACE, namespace)
    if before != namespace:
        raise JobError(
            f"the app has a Cron with namespace {before!r} already, so this one cannot have "
            f"{namespace!r}; give both the same"
        )
    setattr(app, NAMESPACE, namespace)
