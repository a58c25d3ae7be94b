"""Find fields that are set and have no effect; they are reported where they are set, never refused.

Hermes accepts such jobs, so an import does too, and a field without effect does no harm.
"""

from __future__ import annotations

from typing import Final

from hermes_celery.core.fields import BY_NAME, FIELDS, Field
from hermes_celery.core.job import JobSpec
from hermes_celery.core.work import WorkKind

_NAMED: Final = {
    WorkKind.AGENT: "an agent",
    WorkKind.SCRIPT: "a script",
    WorkKind.HTTP: "a request",
    WorkKind.TASK: "a Celery task",
}


def idle_notes(spec: JobSpec) -> list[str]:
    """Return one sentence for each reason why fields that are set have no effect."""
    given = [field for field in FIELDS if field.is_set(field.of(spec))]
    notes = []
    idle = [field.name for field in given if field.kinds and spec.kind not in field.kinds]
    if idle:
        verb = "has" if len(idle) == 1 else "have"
        notes.append(f"{', '.join(idle)} {verb} no effect on {_NAMED[spec.kind]}")
    notes += [_without(field) for field in given if field.goes_with and not _is_backed(field, spec)]
    return notes


def _is_backed(field: Field, spec: JobSpec) -> bool:
    other = BY_NAME[field.goes_with]
    value = other.of(spec)
    if field.goes_with_value is None:
        return other.is_set(value)
    return bool(value == field.goes_with_value)


def _without(field: Field) -> str:
    value = f" {field.goes_with_value}" if field.goes_with_value is not None else ""
    return f"{field.name} has no effect without {field.goes_with}{value}"
