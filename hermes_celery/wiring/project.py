"""`Cron(app)` makes a Celery project's app a cron.

    app = Celery("shop", broker="redis://...")
    cron = Cron(app)
    cron.add("nightly", "0 2 * * *", task="shop.tasks.report", timezone="Europe/Berlin")

Start `celery -A shop beat -S hermes` beside the workers that you have.
A beat that takes the lead writes the jobs of `add` and of `app.conf.beat_schedule` to Redis, and
removes those that are no longer declared. Importing the module connects to nothing. `cron.client`
adds and changes jobs at run time; its methods are the commands of the command line.

Store and broker are one Redis: the app's broker.
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
from hermes_celery.core.arguments import a_text, aware, of_kind
from hermes_celery.core.field_checks import check_name
from hermes_celery.core.job import Job, JobRequest
from hermes_celery.core.job_checks import checked_content, request_of
from hermes_celery.core.readable import readable
from hermes_celery.core.schedule_text import text_of, zone_name
from hermes_celery.core.task_call import call_of, late_text, text_mapping
from hermes_celery.errors import HermesCeleryError, JobError, shown
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

        `namespace` separates the project's jobs from others on the same Redis. Default:
        HERMES_CELERY_NAMESPACE if set, else the app's name. `settings` replace those of the
        environment. A second `Cron` on one app is the same cron. Raises JobError for an `app` or
        `settings` of another class, for an invalid namespace, and for one that differs from that of
        the app's first `Cron`.
        """
        self.app = of_kind(app, name="app", kind=Celery)
        if namespace is not None:
            _choose_namespace(app, a_text(namespace, name="namespace"))
        if settings is not None:
            app.conf.hermes_settings = of_kind(settings, name="settings", kind=Settings)
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
        """Declare a job of this project, under a name that no other declared job has.

        `schedule` is a text as on the command line, or a crontab, timedelta or number of seconds as
        in `beat_schedule`. `task` is a task, its name or its signature; `args`, `kwargs` and
        `options` (for its `apply_async`) are merged into it as by Celery's `Signature.clone`.
        `fields` are those of JobRequest and Policy, such as `retries=3`; with `script`, `prompt` or
        `http` the job needs no task.

        An invalid job does not stop the import of the module, nor the other jobs. It is reported as
        refused by `list`, `show`, `status`, `doctor` and the beat's log, and a stored job of that
        name keeps running. Raises JobError for a name that is not a string or is already declared.
        """
        if not isinstance(name, str):
            raise JobError(f"name is {shown(name)}; it must be a text")
        # A name that cannot be stored is refused below, and is shown with replacements.
        key = readable(name)
        if key in self._declared or key in self._refused:
            raise JobError(
                f"the project declares two jobs named {shown(key)}; give one another name"
            )
        getattr(self.app, PLACES)[key] = _caller()
        work = {"task": task, "args": args, "kwargs": kwargs, "options": options}
        try:
            if not name.strip():
                raise JobError("its name is empty; give it one that no other declared job has")
            check_name(name)
            request = _request(work, {**fields, "name": name}, schedule, timezone=timezone)
        except HermesCeleryError as error:
            self._refused[key] = str(error)
        else:
            self._declared[key] = request

    @cached_property
    def client(self) -> Client:
        """The client for all jobs and runs. Raises SettingsError or StoreError."""
        return open_cron(app_settings(self.app), app=self.app)

    def declared(self, *, now: datetime | None = None) -> dict[str, Job]:
        """Return the declared jobs by name, as a beat would write them at `now`, without a server.

        They are the jobs of `add` and of `app.conf.beat_schedule`. `now` is an aware datetime, by
        default the present: intervals begin at it, and `next_run_at` is the first occurrence after
        it. Raises ScheduleError for a naive `now`, and SettingsError for invalid environment
        variables.
        """
        return self._declarations(now).jobs

    def refused(self) -> dict[str, str]:
        """Return the reasons why declarations were refused, by job name, without a server.

        Raises SettingsError for invalid environment variables.
        """
        return self._declarations(None).refused

    def _declarations(self, now: datetime | None) -> AppDeclarations:
        settings: Settings = self.app.conf.get("hermes_settings") or read_settings()
        return declarations_of(
            self.app,
            now=datetime.now(UTC) if now is None else aware(now, name="now"),
            default_timezone=settings.timezone,
        )

    @property
    def crontab(self) -> Client:
        """The name of `client` in 0.1.0; deprecated."""
        warnings.warn(
            "Cron.crontab is deprecated and will be removed in the next release; use Cron.client",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.client


#: A schedule is parsed here only to refuse an invalid one, so any instant will do.
_ANY_TIME = datetime.fromisoformat("2000-01-01T00:00:00+00:00")


def _request(
    work: Mapping[str, Any],
    fields: Mapping[str, Any],
    schedule: Any,
    *,
    timezone: str | tzinfo | None,
) -> JobRequest:
    """Return a declaration as a checked request. Raises JobError or ScheduleError."""
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
    """Return the name of the module that called into this one."""
    return str(sys._getframe(2).f_globals.get("__name__", "?"))


def _choose_namespace(app: Celery, namespace: str) -> None:
    try:
        checked_namespace(namespace)
    except ValueError as error:
        raise JobError(f"Cron(app, namespace=...): {error}") from None
    before = getattr(app, NAMESPACE, namespace)
    if before != namespace:
        raise JobError(
            f"this app's first Cron has namespace {shown(before)}, so a second one cannot have "
            f"{shown(namespace)}; give both the same namespace"
        )
    setattr(app, NAMESPACE, namespace)
