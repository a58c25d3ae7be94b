"""The page of log events, from `hermes_celery.events` and the calls in the source."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from docs.generate.log_calls import LogCall, log_calls
from docs.generate.markdown import code, codes, table
from hermes_celery.events import EVENTS

_HEAD = """\
# Log events

Each process writes one line per fact to its log, through Python's `logging`. A line has a name and
fields:

```
run.finished run=b46d4db48ab7-20270101T080000Z job=report state=failed
```

With `HERMES_CELERY_LOG=json` each line is a JSON object with `time` (UTC), `level`, `logger`,
`event` and the fields. A field without a value is left out.

The tables name the logger below each event, without the `hermes_celery.` that it begins with.

"""


#: The sections, each with the first words of its events.
_SECTIONS = {
    "Beats": ("beat", "duty", "lease", "tick", "watch"),
    "Jobs": ("job", "jobs", "loss", "schedule"),
    "Projects": ("namespace", "project"),
    "Runs": ("heartbeat", "message", "run", "write", "writes"),
    "Deliveries": ("alerts", "breaker", "delivery", "ping", "targets"),
    "Incidents": ("failure", "incident"),
    "Queues": ("letter", "monitors", "purge", "queue"),
    "Stored records": ("format", "program", "record", "repair"),
    "Workers": ("broker", "presence", "setting", "slots", "worker"),
}
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def page() -> str:
    """Return the whole page. Raises ValueError for an event that belongs to no section."""
    calls = sorted(log_calls(), key=lambda call: call.name)
    words = {word for section in _SECTIONS.values() for word in section}
    if lost := sorted({call.name for call in calls if _first_word(call) not in words}):
        raise ValueError(f"{lost} belong to no section of the page")
    sections = (
        f"## {heading}\n\n{_rows(call for call in calls if _first_word(call) in section)}"
        for heading, section in _SECTIONS.items()
    )
    return _HEAD + "\n".join(sections)


def _first_word(call: LogCall) -> str:
    return call.name.partition(".")[0]


def _rows(calls: Iterable[LogCall]) -> str:
    rows = []
    for name, found in groupby(calls, key=lambda call: call.name):
        same = list(found)
        rows.append(
            (
                "<br>".join([code(name), *_distinct(call.module for call in same)]),
                EVENTS[name],
                ", ".join(level for level in _LEVELS if any(level in one.levels for one in same)),
                codes(_distinct(field for call in same for field in call.fields)),
            )
        )
    return table(["Event and logger", "Meaning", "Level", "Fields"], rows)


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
