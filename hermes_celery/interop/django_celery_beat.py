"""Reads django-celery-beat's entries as jobs, from a file that Django writes:

    python manage.py dumpdata django_celery_beat > beat.json

A file needs neither Django nor its database here, and people can inspect it. Intervals are taken,
crontabs with their own zone, and a clocked time as a job that runs once. `one_off`, `start_time`,
`expires`, `expire_seconds`, `enabled`, queue, priority, headers, exchange and routing key keep
their meaning. A solar schedule is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hermes_celery.core.job import JobRequest
from hermes_celery.core.work import TaskCall
from hermes_celery.errors import ImportFault, JobError
from hermes_celery.interop.beat_defaults import AS_CELERY
from hermes_celery.interop.beat_schedule import crontab_text, text_of
from hermes_celery.interop.takeover import ForeignEntry, entry_or_reason

SOURCE = "django-celery-beat"
_APP = "django_celery_beat"
_TASK = f"{_APP}.periodictask"
_FIELDS = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
_CLEANUP = "celery.backend_cleanup"
_PERIODS = ("days", "hours", "minutes", "seconds", "microseconds")
_DUMP = f"python manage.py dumpdata {_APP} > beat.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class _NoKey:
    """The key of a record whose `pk` cannot be one; nothing refers to it."""

    number: int
    text: str


#: Every record of the file: (model, key) -> fields.
_Records = Mapping[tuple[str, Any], Mapping[str, Any]]


def entries_of(path: Path) -> list[ForeignEntry]:
    """Return the periodic tasks of a file, in its order. Raises ImportFault."""
    records = _records(path)
    tasks = [(key, fields) for (model, key), fields in records.items() if model == _TASK]
    return [_entry(key, fields, records) for key, fields in tasks]


def _records(path: Path) -> _Records:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ImportFault(
            f"{path} cannot be read: {error.strerror}; write it with: {_DUMP}"
        ) from None
    except ValueError as error:
        raise ImportFault(f"{path} is not JSON ({error}); write it with: {_DUMP}") from None
    except RecursionError:
        raise ImportFault(
            f"{path} is nested too deeply to be read; write it with: {_DUMP}"
        ) from None
    if not isinstance(content, list):
        raise ImportFault(f"{path} is not a list of records; write it with: {_DUMP}")
    return dict(_each(content))


def _each(content: list[Any]) -> Iterator[tuple[tuple[str, Any], Mapping[str, Any]]]:
    for number, one in enumerate(content):
        if isinstance(one, dict) and isinstance(one.get("fields"), dict):
            yield (str(one.get("model")).lower(), _key(one.get("pk"), number)), one["fields"]


def _key(pk: Any, number: int) -> Any:
    if pk is None:
        # With --natural-primary a record has no key, and nothing refers to it by a key.
        return f"#{number}"
    if isinstance(pk, (list, dict)):
        return _NoKey(number=number, text=repr(pk))
    return pk


def _entry(key: Any, fields: Mapping[str, Any], records: _Records) -> ForeignEntry:
    name = str(fields.get("name") or "")
    if name == fields.get("task") == _CLEANUP:
        return ForeignEntry(
            name=name, kept="django-celery-beat adds it by itself, and so does our beat"
        )
    if isinstance(key, _NoKey):
        return ForeignEntry(name=name, refused=f"its pk {key.text} is neither a number nor a text")
    return entry_or_reason(name, lambda: _read(name, fields, records))


def _read(name: str, fields: Mapping[str, Any], records: _Records) -> ForeignEntry:
    runs = int(fields.get("total_run_count") or 0)
    if fields.get("one_off") and runs:
        raise JobError("it is one_off and has already run")
    timing = _timing(fields, records)
    is_once = fields.get("one_off") and not fields.get("clocked")
    return ForeignEntry(
        name=name,
        is_enabled=bool(fields.get("enabled", True)),
        last_run_at=_time(fields.get("last_run_at")),
        request=JobRequest(
            name=name,
            queue=fields.get("queue") or None,
            priority=fields.get("priority"),
            start=_time(fields.get("start_time")),
            end=_time(fields.get("expires")),
            repeat=1 if is_once else None,
            task=TaskCall(
                name=str(fields["task"]),
                args=_json(fields, "args", list),
                kwargs=_json(fields, "kwargs", dict),
                options=_options(fields),
            ),
            policy=AS_CELERY,
            **timing,
        ),
    )


def _options(fields: Mapping[str, Any]) -> dict[str, Any]:
    options = {
        "exchange": fields.get("exchange"),
        "routing_key": fields.get("routing_key"),
        "expires": fields.get("expire_seconds"),
        "headers": _json(fields, "headers", dict),
    }
    return {name: value for name, value in options.items() if value not in (None, "", {})}


def _json(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    text = fields.get(name)
    try:
        value = json.loads(text) if isinstance(text, str) and text else kind()
    except ValueError as error:
        raise JobError(f"its {name} {text!r} is not JSON: {error}") from None
    if not isinstance(value, kind):
        raise JobError(f"its {name} {text!r} is not a {kind.__name__}")
    return value


def _time(text: Any) -> datetime | None:
    if not text:
        return None
    moment = datetime.fromisoformat(str(text))
    if moment.tzinfo is None:
        raise JobError(f"the time {text} has no zone; set USE_TZ=True and write the file again")
    return moment


def _timing(fields: Mapping[str, Any], records: _Records) -> dict[str, Any]:
    for kind, read in (("interval", _interval), ("crontab", _crontab), ("clocked", _clocked)):
        key = fields.get(kind)
        if key is not None:
            # With --natural-foreign a reference may be a list, which cannot be a key.
            known = not isinstance(key, (list, dict))
            record = records.get((f"{_APP}.{kind}schedule", key)) if known else None
            if record is None:
                raise JobError(f"its {kind} {key!r} is not in the file; write it with: {_DUMP}")
            return read(record)
    if fields.get("solar") is not None:
        raise JobError("its schedule is solar, which is not supported; add it by hand as a "
                       "crontab for the earliest such time")  # fmt: skip
    raise JobError("it has no schedule")


def _interval(record: Mapping[str, Any]) -> dict[str, Any]:
    period = str(record["period"])
    if period not in _PERIODS:
        raise JobError(f"its period {period!r} must be one of {', '.join(_PERIODS)}")
    return {"schedule": text_of(timedelta(**{period: int(record["every"])}))}


def _crontab(record: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: str(record.get(name, "*")) for name in _FIELDS}
    return {"schedule": crontab_text(**given), "timezone": record.get("timezone") or None}


def _clocked(record: Mapping[str, Any]) -> dict[str, Any]:
    moment = _time(record["clocked_time"])
    return {"schedule": "" if moment is None else moment.isoformat()}
