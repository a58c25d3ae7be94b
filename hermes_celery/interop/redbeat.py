"""Turns RedBeat's entries, as `store.redbeat` reads them, into jobs.

A crontab and an interval are read as in `beat_schedule`. An rrule with only a period becomes an
interval with its start, its end and its number of runs. Any other rrule is refused: its rules by
day and position must be rewritten as cron expressions. Values that RedBeat encodes in its own way
are decoded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

from hermes_celery.core.fields import taken_options
from hermes_celery.core.job import JobRequest
from hermes_celery.core.task_call import late_text
from hermes_celery.core.work import TaskCall
from hermes_celery.errors import JobError
from hermes_celery.interop.beat_defaults import AS_CELERY
from hermes_celery.interop.beat_schedule import crontab_text, interval_text
from hermes_celery.interop.takeover import ForeignEntry, entry_or_reason
from hermes_celery.store.redbeat import DEFAULT_PREFIX, RedBeatRecord

SOURCE = "RedBeat"
_STATIC = "declared in beat_schedule, which our beat reads by itself"
#: dateutil's frequencies of a fixed length, in seconds.
_PERIODS = {2: 604_800, 3: 86_400, 4: 3_600, 5: 60, 6: 1}


def prefix_of(configuration: Mapping[str, Any]) -> str:
    """Return the prefix of RedBeat's keys for an app."""
    return str(configuration.get("redbeat_key_prefix") or DEFAULT_PREFIX)


def url_of(configuration: Mapping[str, Any]) -> str | None:
    """Return the URL of the Redis that RedBeat uses for an app; None for the app's broker."""
    url = configuration.get("redbeat_redis_url")
    return str(url) if url else None


def entries_of(records: Iterable[RedBeatRecord]) -> list[ForeignEntry]:
    """Return records as entries; an unreadable one says why and does not affect the others."""
    return [_entry(record) for record in records]


def _entry(record: RedBeatRecord) -> ForeignEntry:
    if record.is_static or record.fault:
        return ForeignEntry(
            name=record.name, refused=record.fault, kept=_STATIC if record.is_static else ""
        )
    return entry_or_reason(record.name, lambda: _read(record), what="its definition")


def _read(record: RedBeatRecord) -> ForeignEntry:
    given = _object(json.loads(record.definition or "null"), "its definition")
    options = _object(_value(given.get("options")) or {}, "its options")
    taken = taken_options(options)
    timing = _timing(_object(given.get("schedule"), "its schedule"))
    timing["schedule"] = late_text(timing["schedule"], options)
    return ForeignEntry(
        name=record.name,
        is_enabled=bool(given.get("enabled", True)),
        last_run_at=_last_run(record.meta),
        request=JobRequest(
            name=str(given.get("name") or record.name),
            task=TaskCall(
                name=str(given["task"]),
                args=list(_value(given.get("args")) or ()),
                kwargs=_object(_value(given.get("kwargs")) or {}, "its kwargs"),
                options=options,
            ),
            policy=AS_CELERY,
            **taken,
            **timing,
        ),
    )


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise JobError(f"{what} is {type(value).__name__}, not an object")
    return dict(value)


def _last_run(meta: str) -> datetime | None:
    if not meta:
        return None
    last = _value(_object(json.loads(meta), "its meta").get("last_run_at"))
    return last if isinstance(last, datetime) else None


def _value(value: Any) -> Any:
    """Decode a value that RedBeat encoded."""
    if isinstance(value, list):
        return [_value(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.get("__type__") == "datetime":
        return _datetime(value)
    return {name: _value(one) for name, one in value.items()}


def _datetime(value: Mapping[str, Any]) -> datetime:
    fields = {name: one for name, one in value.items() if name not in ("__type__", "timezone")}
    zone = value.get("timezone", "UTC")
    seconds = zone if isinstance(zone, (int, float)) else None
    tzinfo = ZoneInfo(zone) if seconds is None else timezone(timedelta(seconds=seconds))
    return datetime(**fields, tzinfo=tzinfo)


def _timing(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request for the schedule and its bounds."""
    fields = {name: one for name, one in given.items() if name != "__type__"}
    match given.get("__type__"):
        case "interval":
            seconds, relative = float(fields["every"]), bool(fields.get("relative"))
            return {"schedule": interval_text(seconds, relative=relative)}
        case "crontab":
            return {"schedule": crontab_text(**fields)}
        case "rrule":
            return _rule(fields)
    raise JobError(
        f"its schedule is a {given.get('__type__')!r}; known are interval, crontab and rrule"
    )


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    by = sorted(name for name, value in rule.items() if name.startswith("by") and value is not None)
    period = _PERIODS.get(rule.get("freq", -1))
    if by or period is None:
        what = f"rules by {', '.join(by)}" if by else "months or years as its period"
        raise JobError(f"its rrule has {what}; add it by hand as a cron expression, such as "
                       "'0 9 * * fri#L'")  # fmt: skip
    seconds = period * int(rule.get("interval") or 1)
    return {
        "schedule": f"every {seconds}s",
        "start": _instant(rule.get("dtstart")),
        "end": _instant(rule.get("until")),
        "repeat": rule.get("count"),
    }


def _instant(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, tz=UTC)
