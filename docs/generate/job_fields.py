"""The page of a job's fields, from `hermes_celery.core.fields`."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from docs.generate.markdown import code, codes, table
from hermes_celery.core.fields import FIELDS, GROUPS, Field

_HEAD = """\
# Job fields

Every field of a job, from the table that the program reads.

- **In Python**: the name in `JobRequest(...)` and `cron.add(...)`.
- **Option**: how `hermes-celery add` and `hermes-celery edit` take it.
- **Limits**: what is accepted. Another value is refused.
- *Timing* marks a field that changes when the job runs. If you change such a field, the next run is
  planned again.

An empty text clears a field: `hermes-celery edit nightly --group '' --timeout ''`. If a field only
has a meaning together with another field, it is cleared with that field. `hermes-celery show`
prints the fields that are set, and `show --json` prints all of them.

"""

_ELSEWHERE = """
## The same fields in other schedulers

What a field is called in Hermes' `jobs.json` and in an entry of Celery's `beat_schedule`. The
policies are in the options of such an entry, under their names in Python:
`"options": {"hermes": {"overlap": "skip"}}`.

"""


def page() -> str:
    """Return the whole page."""
    groups = "\n".join(f"## {heading}\n\n{_fields(group)}" for heading, group in GROUPS.items())
    return _HEAD + groups + _ELSEWHERE + _names_elsewhere()


def _fields(fields: tuple[Field, ...]) -> str:
    rows = [
        (code(field.name), codes(_options(field)), _meaning(field), field.limits, _default(field))
        for field in fields
    ]
    return table(["In Python", "Option", "Meaning", "Limits", "Default"], rows)


def _names_elsewhere() -> str:
    rows = [
        (code(field.name), codes(field.hermes), codes(_beat_names(field)))
        for field in FIELDS
        if field.hermes or any(_beat_names(field))
    ]
    return table(["In Python", "In `jobs.json`", "In `beat_schedule`"], rows)


def _options(field: Field) -> Iterator[str]:
    for spelling in field.option:
        yield spelling if field.is_switch else f"{spelling} {field.metavar}"
    for part in field.parts:
        yield f"{part.option} {part.metavar}"


def _beat_names(field: Field) -> Iterator[str]:
    if field.beat_schedule:
        yield field.beat_schedule
    if field.beat_option:
        yield f"options.{field.beat_option}"


def _meaning(field: Field) -> str:
    parts = (f"`{part.option}`: {part.help}" for part in field.parts)
    marks = ("*Timing.*" if field.is_timing else "", f"*{field.inert}*" if field.inert else "")
    return " ".join(filter(None, (field.help, *parts, *marks)))


def _default(field: Field) -> str:
    value = field.empty
    if field.is_required:
        return "required"
    if isinstance(value, Enum):
        return code(str(value.value))
    if value is False:
        return "no"
    return "" if value in (None, "", ()) else code(str(value))
