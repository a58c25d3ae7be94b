"""Stored definitions of jobs as values, and back, with what a newer version wrote into them.

This version reads what it knows. A field that it does not know is no reason to refuse: it is left
where it is, and every change of the job writes it again. A *word* that it does not know (of a
policy, say) is one: to run the job without it would run it in a wrong way, so the job is shown as
from a newer version and not planned.
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
    """A record that a newer version wrote and this one cannot act on; it is no damage."""


def spec_from_json(job_id: str, text: str, *, key: str = "") -> JobSpec:
    """A stored definition as a value; `key` is where it is stored.

    Raises RecordBroken when it cannot be read, and NewerRecord when a newer version can.
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
    """Refuse a definition whose instants cannot be shown. Raises RecordBroken."""
    for name in _INSTANTS:
        ms = getattr(spec, name)
        if ms is not None and not is_instant(ms):
            raise RecordBroken(key, f"has {name} {str(ms)[:40]}, no instant")


def spec_to_json(spec: JobSpec, *, stored: str) -> bytes:
    """A definition as it is stored; `stored` is how it was, "" for a new one."""
    text = _encode(spec)
    was = _mapping(stored)
    if not was:
        return text
    now: dict[str, Any] = msgspec.json.decode(text)
    kept = _with_unknown(now, was, JobSpec)
    return text if kept == now else msgspec.json.encode(kept)


def unreadable_job(job_id: str, fields: Fields, text: str, error: RecordBroken) -> UnreadableJob:
    """What can be shown of a job that cannot be read."""
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
    """Why a definition cannot be read, and whether a newer version may."""
    if not text:
        return RecordBroken(key, "has no definition (field spec)")
    stored = _mapping(text)
    needs = stored.get("needs")
    if isinstance(needs, int) and (what := too_new(needs)):
        return NewerRecord(key, what)
    if "Invalid enum value" in why and {"id", "name", "schedule"} <= stored.keys():
        return NewerRecord(key, f"has a word that this version does not know ({why})")
    return RecordBroken(key, f"has a definition (field spec) that cannot be read ({why})")


def _check_work(key: str, text: str) -> None:
    """A job with nothing to do but what is in fields that this version does not know."""
    unknown = sorted(set(_mapping(text)) - set(JobSpec.__struct_fields__))
    if unknown:
        shown = readable(", ".join(unknown))
        raise NewerRecord(key, f"has work that this version does not know ({shown})")


def _mapping(text: str) -> dict[str, Any]:
    """A JSON object; empty for anything else."""
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
    """What is now, with the fields that were there and that the shape does not have."""
    merged = dict(now)
    merged |= {name: value for name, value in was.items() if name not in shape.__struct_fields__}
    for name, part in _parts(shape).items():
        before = was.get(name)
        # A policy is always there, written or not; a request or a task is, or is not.
        after = now.get(name, {} if name == "policy" else None)
        if isinstance(before, dict) and isinstance(after, dict):
            inner = _with_unknown(after, before, part)
            if inner:
                merged[name] = inner
    return merged


@cache
def _parts(shape: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct]]:
    """The fields of a shape that are objects of a shape of their own."""
    found: dict[str, type[msgspec.Struct]] = {}
    for name, hint in get_type_hints(shape).items():
        for option in (hint, *get_args(hint)):
            if isinstance(option, type) and issubclass(option, msgspec.Struct):
                found[name] = option
    return found
