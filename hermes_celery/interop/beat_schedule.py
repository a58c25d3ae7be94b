"""Celery's own `beat_schedule`, read as jobs.

Each entry becomes a request with the schedule, the task and the options that Celery's beat would
take; runs of an entry overlap as those of Celery's beat do (`beat_defaults`). What cannot be taken
is refused with the reason and what to write instead, entry by entry: the others run.
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
from hermes_celery.core.schedule_text import text_of, zone_name
from hermes_celery.core.task_call import call_of, late_text
from hermes_celery.errors import HermesCeleryError, JobError, error_text
from hermes_celery.interop.beat_defaults import policy_of
from hermes_celery.interop.cron_attributes import DECLARED, REFUSED, place_of

__all__ = ["WHOLE", "declared_of", "declared_twice", "requests_of", "text_of", "zone_of"]

#: What `celery beat` knows in an entry; the last three are its own notes, which nobody needs.
_NEEDED: Final = tuple(field.beat_schedule for field in FIELDS if field.beat_schedule)
_KEYS: Final = (*_NEEDED, "args", "kwargs", "options", "relative")
_NOTES: Final = ("name", "last_run_at", "total_run_count")
#: What is refused where all entries are.
WHOLE: Final = "app.conf.beat_schedule"


def requests_of(app: Celery) -> tuple[dict[str, JobRequest], dict[str, str]]:
    """The app's entries as requests by name, and the reasons of those that cannot be taken."""
    taken: dict[str, JobRequest] = {}
    refused: dict[str, str] = {}
    entries = app.conf.beat_schedule or {}
    if not isinstance(entries, Mapping):
        kind = type(entries).__name__
        return {}, {WHOLE: f"{WHOLE} is a {kind}; make it a dict of entries by their names"}
    for name, entry in with_defaults(app).items():
        try:
            taken[str(name)] = _request(str(name), entry, app=app)
        except HermesCeleryError as error:
            refused[str(name)] = str(error)
        except Exception as error:  # noqa: BLE001 - objects of the user's own; costs this entry
            refused[str(name)] = f"it cannot be read: {error_text(error)}"
    return taken, refused


def declared_of(
    app: Celery, *, default_timezone: str
) -> tuple[dict[str, JobRequest], dict[str, str]]:
    """What the app declares with `Cron.add`, as `requests_of` gives its entries.

    A job that names no zone is in the app's, where that is set, else in the default one.
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
    """The entries whose name a job of `Cron.add` has, which runs, and what to do, by name."""
    entries = app.conf.beat_schedule
    names = map(str, entries) if isinstance(entries, Mapping) else ()
    return {
        name: (
            f"two declarations are named {name!r}: this entry of beat_schedule does not run, but "
            f"that of {place_of(app, name)} does; give one another name"
        )
        for name in names
        if name in getattr(app, DECLARED, {}) or name in getattr(app, REFUSED, {})
    }


def zone_of(app: Celery) -> str:
    """The zone that an app's schedules are in, as Celery takes it. Raises JobError."""
    try:
        zone = app.timezone
    except Exception as error:  # noqa: BLE001 - zoneinfo raises many; the setting is the user's
        raise JobError(
            f"app.conf.timezone is {app.conf.timezone!r}, no time zone ({error}); use a name such "
            "as 'Europe/Berlin' or 'UTC'"
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
    """The text of what Celery's `crontab` would mean by these fields. Raises what that raises."""
    return text_of(crontab(**fields))


def interval_text(seconds: float, *, relative: bool = False) -> str:
    """The text of Celery's `schedule` of so many seconds. Raises ScheduleError."""
    return text_of(schedule(seconds, relative=relative))


def _fields(entry: Any) -> Mapping[str, Any]:
    """An entry's keys and values; what it may be is what Celery's beat takes."""
    if isinstance(entry, ScheduleEntry):
        names = ("task", "schedule", "args", "kwargs", "options")
        return {name: getattr(entry, name) for name in names}
    if not isinstance(entry, Mapping):
        raise JobError(f"it is a {type(entry).__name__}; make it a dict with task and schedule")
    unknown = [str(key) for key in entry if key not in (*_KEYS, *_NOTES)]
    if unknown:
        raise JobError(f"it has the key {', '.join(unknown)}; known are {', '.join(_KEYS)}")
    missing = [key for key in _NEEDED if entry.get(key) in (None, "")]
    if missing:
        raise JobError(f"it has no {' and no '.join(missing)}; give it one")
    return entry


def _schedule(fields: Mapping[str, Any], *, app: Celery) -> str:
    given = fields["schedule"]
    if fields.get("relative") and not isinstance(given, str) and not hasattr(given, "is_due"):
        # As celery.schedules.maybe_schedule reads it.
        given = schedule(given, relative=True, app=app)
    return text_of(given)


def shown_name(name: str) -> str:
    """A name as a job may have it: printable, and shortened with a mark that stays the same.

    `add_periodic_task` names entries after the whole call, arguments and all.
    """
    shown = "".join(letter if letter.isprintable() else " " for letter in name).strip()
    if shown == name and len(name) <= MAX_NAME:
        return name
    mark = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{shown[: MAX_NAME - 12]}... {mark}" if len(shown) > MAX_NAME - 9 else f"{shown} {mark}"


_CLEANUP = "celery.backend_cleanup"


def with_defaults(app: Celery) -> dict[str, Any]:
    """The app's entries, with those that Celery's beat adds by itself.

    As celery.beat.Scheduler.install_default_entries does; without a result backend there is nothing
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
    except Exception:  # noqa: BLE001 - a backend that cannot be made fails the tasks, not the beat
        return False
