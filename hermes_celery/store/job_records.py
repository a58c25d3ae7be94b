"""Encode and decode stored job definitions, keeping what a newer version added to them.

A job with an unknown *field* is accepted: the field stays in the record, and every change of the
job writes it back. A job with an unknown *word*, such as a policy of a newer version, is refused,
because it would run in a wrong way. It is shown as from a newer version and is not planned.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, get_args, get_type_hints

import msgspec

from hermes_celery.core.job import JobSpec, UnreadableJob
from hermes_celery.core.readable import readable
from hermes_celery.core.unknown_words import UNREADABLE
from hermes_celery.errors import RecordBroken
from hermes_celery.store.format import too_new
from hermes_celery.store.record_fields import Fields, is_instant

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(JobSpec).decode
_INSTANTS = tuple(name for name in JobSpec.__struct_fields__ if name.endswith("_ms"))


class NewerRecord(RecordBroken):
    """An undamaged record that a newer version wrote and this version cannot use."""


def spec_from_json(job_id: str, text: str, *, key: str = "") -> JobSpec:
    """Return a stored definition as a value; `key` is where it is stored.

    Raises RecordBroken when it is unreadable, and NewerRecord when a newer version can read it.
    """
    key = key or f"job {job_id}"
    try:
        spec = _decode(text)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise _refusal(key, text, readable(str(error))) from None
    if what := too_new(spec.needs):
        raise NewerRecord(key, what)
    if spec.id != job_id:
        raise RecordBroken(key, f"holds the definition of another job, {spec.id!r}")
    if not (spec.prompt or spec.script or spec.skills or spec.http or spec.task):
        _check_work(key, text)
    return spec


def check_instants(key: str, spec: JobSpec) -> None:
    """Raise RecordBroken for a definition with an instant outside the years that can be shown."""
    for name in _INSTANTS:
        ms = getattr(spec, name)
        if ms is not None and not is_instant(ms):
            raise RecordBroken(key, f"has {name} {str(ms)[:40]}, not an instant")


def spec_to_json(spec: JobSpec, *, stored: str) -> bytes:
    """Return a definition as it is to be stored.

    `stored` is the old text, whose unknown fields are kept; "" for a new job.
    """
    text = _encode(spec)
    was = _mapping(stored)
    if not was:
        return text
    now: dict[str, Any] = msgspec.json.decode(text)
    kept = _with_unknown(now, was, JobSpec)
    return text if kept == now else msgspec.json.encode(kept)


def unreadable_job(job_id: str, fields: Fields, text: str, error: RecordBroken) -> UnreadableJob:
    """Return what can be shown of an unreadable job."""
    stored = _mapping(text)
    return UnreadableJob(
        id=job_id,
        key=error.key,
        what=error.what,
        name=_shown(stored, "name"),
        schedule_display=_shown(stored, "schedule_display") or _shown(stored, "schedule"),
        state=fields.text("state") or UNREADABLE,
        is_newer=isinstance(error, NewerRecord),
    )


def _refusal(key: str, text: str, why: str) -> RecordBroken:
    """Return why a definition is unreadable; a NewerRecord when a newer version may read it."""
    if not text:
        return RecordBroken(key, "has no definition (field spec)")
    stored = _mapping(text)
    needs = stored.get("needs")
    if isinstance(needs, int) and (what := too_new(needs)):
        return NewerRecord(key, what)
    if "Invalid enum value" in why and {"id", "name", "schedule"} <= stored.keys():
        return NewerRecord(key, f"has a word that this version does not know ({why})")
    return RecordBroken(key, f"has an unreadable definition (field spec: {why})")


def _check_work(key: str, text: str) -> None:
    """Raise NewerRecord when a job's only work is in fields that this version does not know."""
    unknown = sorted(set(_mapping(text)) - set(JobSpec.__struct_fields__))
    if unknown:
        shown = readable(", ".join(unknown))
        raise NewerRecord(key, f"has work that this version does not know ({shown})")


def _mapping(text: str) -> dict[str, Any]:
    """Return a JSON object; an empty one for anything else."""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _shown(stored: Mapping[str, Any], name: str) -> str:
    value = stored.get(name)
    return value if isinstance(value, str) else ""


def _with_unknown(
    now: dict[str, Any], was: dict[str, Any], shape: type[msgspec.Struct]
) -> dict[str, Any]:
    """Return the new fields, plus the old fields that `shape` does not have."""
    merged = dict(now)
    merged |= {name: value for name, value in was.items() if name not in shape.__struct_fields__}
    for name, part in _parts(shape).items():
        before = was.get(name)
        # A job always has a policy, even if none is stored; a request or a task is optional.
        after = now.get(name, {} if name == "policy" else None)
        if isinstance(before, dict) and isinstance(after, dict):
            inner = _with_unknown(after, before, part)
            if inner:
                merged[name] = inner
    return merged


@cache
def _parts(shape: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct]]:
    """Return the fields of a struct whose values are structs themselves."""
    found: dict[str, type[msgspec.Struct]] = {}
    for name, hint in get_type_hints(shape).items():
        for option in (hint, *get_args(hint)):
            if isinstance(option, type) and issubclass(option, msgspec.Struct):
                found[name] = option
    return found
