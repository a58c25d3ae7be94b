"""Reads Celery's own `beat_schedule` as jobs.

Each entry becomes a request with the schedule, task and options that Celery's beat would use. Runs
of an entry may overlap, as with Celery's beat (`beat_defaults`). An invalid entry is refused with
the reason and what to write instead; the other entries run.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec
from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import crontab, schedule

from hermes_celery.core.field_checks import MAX_NAME
from hermes_celery.core.fields import FIELDS, taken_options
from hermes_celery.core.job import JobRequest
from hermes_celery.core.readable import readable
from hermes_celery.core.schedule_text import text_of, zone_name
from hermes_celery.core.task_call import call_of, late_text
from hermes_celery.errors import (
    HermesCeleryError,
    JobError,
    error_text,
    listed,
    shown,
    with_article,
)
from hermes_celery.interop.beat_defaults import policy_of
from hermes_celery.interop.cron_attributes import DECLARED, REFUSED, place_of

__all__ = ["WHOLE", "declared_of", "declared_twice", "requests_of", "text_of", "zone_of"]

#: The keys that `celery beat` knows in an entry. `_NOTES` are its own notes; they are ignored.
_NEEDED: Final = tuple(field.beat_schedule for field in FIELDS if field.beat_schedule)
_KEYS: Final = (*_NEEDED, "args", "kwargs", "options", "relative")
_NOTES: Final = ("name", "last_run_at", "total_run_count")
#: The name under which the whole `beat_schedule` is refused.
WHOLE: Final = "app.conf.beat_schedule"


def requests_of(app: Celery) -> tuple[dict[str, JobRequest], dict[str, str]]:
    """Return the app's entries as requests, and the reasons of refused ones, both by name."""
    taken: dict[str, JobRequest] = {}
    refused: dict[str, str] = {}
    entries = app.conf.beat_schedule or {}
    if not isinstance(entries, Mapping):
        kind = with_article(type(entries).__name__)
        return {}, {WHOLE: f"{WHOLE} is {kind}; make it a dict of entries by their names"}
    for name, entry in with_defaults(app).items():
        key = entry_name(name)
        try:
            taken[key] = _request(str(name), entry, app=app)
        except HermesCeleryError as error:
            refused[key] = str(error)
        except Exception as error:  # noqa: BLE001 - the user's objects may raise; costs this entry
            refused[key] = f"it cannot be read: {error_text(error)}"
    return taken, refused


def entry_name(name: object) -> str:
    """Return the name by which an entry is known here: its own, as text that can be stored."""
    return readable(str(name))


def declared_of(
    app: Celery, *, default_timezone: str
) -> tuple[dict[str, JobRequest], dict[str, str]]:
    """Return the requests and refusals of `Cron.add`, in the form of `requests_of`.

    A job that names no zone gets the app's zone if that is set, else `default_timezone`.
    """
    declared: dict[str, JobRequest] = getattr(app, DECLARED, {})
    refused: dict[str, str] = getattr(app, REFUSED, {})
    if not app.conf.timezone:
        zone = default_timezone
    else:
        try:
            zone = zone_of(app)
        except JobError as error:
            zoned = {name: one for name, one in declared.items() if one.timezone}
            unzoned = {name: str(error) for name in declared if name not in zoned}
            return zoned, {**refused, **unzoned}
    return {
        name: msgspec.structs.replace(one, timezone=one.timezone or zone)
        for name, one in declared.items()
    }, dict(refused)


def declared_twice(app: Celery) -> dict[str, str]:
    """Return entries whose name `Cron.add` has declared too, by name, with what to do.

    The job of `Cron.add` runs; the entry does not.
    """
    entries = app.conf.beat_schedule
    names = map(entry_name, entries) if isinstance(entries, Mapping) else ()
    return {
        name: (
            f"two declarations are named {shown(name)}: this entry of beat_schedule does not run, "
            f"but the one of {place_of(app, name)} does; rename one of them"
        )
        for name in names
        if name in getattr(app, DECLARED, {}) or name in getattr(app, REFUSED, {})
    }


def zone_of(app: Celery) -> str:
    """Return the zone of an app's schedules, as Celery reads it. Raises JobError."""
    try:
        zone = app.timezone
    except Exception as error:  # noqa: BLE001 - zoneinfo raises many types for a user's setting
        raise JobError(
            f"app.conf.timezone is {shown(app.conf.timezone)}, not a time zone ({error}); use a "
            "name such as 'Europe/Berlin' or 'UTC'"
        ) from None
    return zone_name(zone)


def _request(name: str, entry: Any, *, app: Celery) -> JobRequest:
    fields = _fields(entry)
    call = call_of(
        fields["task"],
        args=fields.get("args"),
        kwargs=fields.get("kwargs"),
        options=fields.get("options"),
    )
    options = dict(call.options)
    policy = policy_of(options)
    taken = taken_options(options)
    return JobRequest(
        schedule=late_text(_schedule(fields, app=app), options),
        timezone=zone_of(app),
        name=shown_name(name),
        policy=policy,
        task=msgspec.structs.replace(call, options=options),
        **taken,
    )


def crontab_text(**fields: Any) -> str:
    """Return the text of Celery's `crontab` with these fields. Raises the errors of `crontab`."""
    return text_of(crontab(**fields))


def interval_text(seconds: float, *, relative: bool = False) -> str:
    """Return the text of Celery's `schedule` of that many seconds. Raises ScheduleError."""
    return text_of(schedule(seconds, relative=relative))


def _fields(entry: Any) -> Mapping[str, Any]:
    """Return an entry's keys and values, in the forms that Celery's beat takes. Raises JobError."""
    if isinstance(entry, ScheduleEntry):
        names = ("task", "schedule", "args", "kwargs", "options")
        return {name: getattr(entry, name) for name in names}
    if not isinstance(entry, Mapping):
        raise JobError(
            f"it is {with_article(type(entry).__name__)}; make it a dict with task and schedule"
        )
    unknown = [str(key) for key in entry if key not in (*_KEYS, *_NOTES)]
    if unknown:
        raise JobError(f"it has the key {listed(unknown)}; known are {', '.join(_KEYS)}")
    missing = [key for key in _NEEDED if entry.get(key) in (None, "")]
    if missing:
        raise JobError(f"it has no {' and no '.join(missing)}; give it one")
    return entry


def _schedule(fields: Mapping[str, Any], *, app: Celery) -> str:
    given = fields["schedule"]
    if fields.get("relative") and not isinstance(given, str) and not hasattr(given, "is_due"):
        # celery.schedules.maybe_schedule does the same.
        given = schedule(given, relative=True, app=app)
    return text_of(given)


def shown_name(name: str) -> str:
    """Return a name in a form that a job may have: printable, and shortened with a stable mark.

    `add_periodic_task` names an entry after the whole call with its arguments.
    """
    shown = "".join(letter if letter.isprintable() else " " for letter in name).strip()
    if shown == name and len(name) <= MAX_NAME:
        return name
    mark = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{shown[: MAX_NAME - 12]}... {mark}" if len(shown) > MAX_NAME - 9 else f"{shown} {mark}"


_CLEANUP = "celery.backend_cleanup"


def with_defaults(app: Celery) -> dict[str, Any]:
    """Return the app's entries with those that Celery's beat adds by itself.

    As in celery.beat.Scheduler.install_default_entries; without a result backend there is nothing
    to clean.
    """
    given = app.conf.beat_schedule
    entries = dict(given) if isinstance(given, Mapping) else {}
    if app.conf.result_expires and _CLEANUP not in entries and _needs_cleanup(app):
        entries[_CLEANUP] = {
            "task": _CLEANUP,
            "schedule": crontab("0", "4", "*"),
            "options": {"expires": 12 * 3600},
        }
    return entries


def _needs_cleanup(app: Celery) -> bool:
    if not app.conf.result_backend or app.conf.result_backend == "disabled://":
        return False
    try:
        return not app.backend.supports_autoexpire
    except Exception:  # noqa: BLE001 - an unusable backend fails the tasks, not the beat
        return False
