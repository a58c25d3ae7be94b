"""The page `docs/reference/job-fields.md`, made from the table of fields.

python -m tests.job_fields_page > docs/reference/job-fields.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum

from hermes_celery.core.fields import FIELDS, Field

_HEAD = """\
# The fields of a job

Each field that something here acts on has an option of `hermes-celery add` and `edit`; each has a
name in Python: `JobRequest(...)`, `cron.add(...)`. An empty text clears it:
`edit nightly --group '' --timeout ''`. A field that means nothing without another one goes with it.
`show` prints what is set, `show --json` all of it. *Timing*: a change of it plans the job anew. An
entry of `beat_schedule` has the policy's fields (from `catch_up` on) in its options:
`"options": {"hermes": {"overlap": "skip"}}`. This page is made from the table that the program
reads.

| in Python | option | what it says | if not given | in Hermes' `jobs.json` | in `beat_schedule` |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(f"| {' | '.join(_row(field))} |\n" for field in FIELDS)


def _row(field: Field) -> Iterator[str]:
    yield f"`{field.name}`"
    yield _code(_options(field))
    marks = ("*Timing.*" if field.is_timing else "", f"*{field.inert}*" if field.inert else "")
    yield _cell(" ".join(filter(None, (_help(field), *marks))))
    yield "required" if field.is_required else _empty(field.empty)
    yield _code(field.hermes)
    option = f"options.{field.beat_option}" if field.beat_option else ""
    yield _code(filter(None, (field.beat_schedule, option)))


def _options(field: Field) -> Iterator[str]:
    for spelling in field.option:
        yield spelling if field.is_switch else f"{spelling} {field.metavar}"
    for part in field.parts:
        yield f"{part.option} {part.metavar}"


def _help(field: Field) -> str:
    return " ".join(
        filter(None, (field.help, *(f"`{part.option}`: {part.help}" for part in field.parts)))
    )


def _empty(value: object) -> str:
    if isinstance(value, Enum):
        return f"`{value.value}`"
    if value is False:
        return "no"
    return "" if value in (None, "", ()) else f"`{value}`"


def _code(texts: Iterable[str]) -> str:
    return ", ".join(f"`{_cell(text)}`" for text in texts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
