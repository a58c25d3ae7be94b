"""The page of schedules: the forms of the code, explained by the program itself.

Words, next times and refusals are what the program says when the page is made, at one fixed time.
"""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from docs.generate.markdown import code, plain, table
from hermes_celery.errors import ScheduleError
from hermes_celery.schedule import Bounds, Schedule, parse
from hermes_celery.schedule.explaining import words_of
from hermes_celery.schedule.forms import FORMS, Form

_ZONE = "Europe/Berlin"
_NOW = datetime(2027, 1, 4, 8, 15, tzinfo=ZoneInfo(_ZONE))
_SHOWN = 2
#: What bounds a schedule, as `add` takes it, and as the program does.
_BOUNDED = (
    (
        "every 6h",
        "--start 2027-02-01",
        Bounds.of(start=_NOW.replace(month=2, day=1, hour=0, minute=0)),
    ),
    ("@daily", "--end 2027-01-05T12:00", Bounds.of(end=_NOW.replace(day=5, hour=12, minute=0))),
    ("0 9 * * *", '--except "* * 5-7 1 *"', Bounds.of(exclude=("* * 5-7 1 *",))),
    ("0 9 * * *", "--except 2027-01-05", Bounds.of(exclude=("2027-01-05",))),
    (
        "0 9 * * *",
        "--except 2027-01-04..2027-01-10",
        Bounds.of(exclude=("2027-01-04..2027-01-10",)),
    ),
    (
        "weekdays at 9am",
        "--except 2027-01-05 --except 2027-01-06",
        Bounds.of(exclude=("2027-01-05", "2027-01-06")),
    ),
    ("@hourly", "--jitter 300", Bounds.of(jitter_seconds=300)),
)
_REFUSED = (
    "60 * * * *",
    "0 0 30 2 *",
    "0 9 * *",
    "every monday",
    "every 30m at 9am",
    "in 0s",
    "@reboot",
    "2027-03-28 9 o'clock",
    "CRON_TZ=Europe/Bonn 0 9 * * *",
)

_HEAD = """\
# Schedules

A schedule is a text of at most 256 characters. `hermes-celery add`, `edit`, `next` and `explain`
take it, and so do `JobRequest(schedule=...)` and `cron.add(...)`. Two commands tell you what a
schedule means before a job has it:

```console
$ hermes-celery explain "30 2 * * *" --tz Europe/Berlin --from 2027-03-26
At 02:30.
Normal form: 30 2 * * *  (Europe/Berlin)
...
$ hermes-celery next "30 2 * * *" --tz Europe/Berlin --from 2027-03-27T12:00 -n 2
2027-03-28T03:00:00+02:00
2027-03-29T02:30:00+02:00
```

`hermes-celery explain --forms` prints the forms of this page.
[When clocks change](../explanation/dst.md) says what happens where an hour is missing or comes
twice.

In the tables, "in words" is what `explain` says, and the next times are those after Monday,
2027-01-04 08:15, in Europe/Berlin.

"""

_BOUNDS = """
## Bounds and holidays

A job has no occurrence before `--start` or after `--end`. It does not run on what `--except` names:
a date, a span of dates, or every minute that a cron expression matches. Give `--except` once for
each of them. `--jitter` delays each occurrence by an amount of its own, which is the same on every
machine and never reaches the next occurrence. In Python the fields are `start`, `end`, `exclude`
and `jitter_seconds`.

"""

_REFUSALS = """
## Refused schedules

A schedule that is wrong, ambiguous or can never run is refused when you write it. The error says
what is wrong and what to write:

"""


def page() -> str:
    """Return the whole page. Raises ScheduleError for an example that does not parse."""
    sections = (f"## {heading}\n\n{_forms(forms)}" for heading, forms in FORMS.items())
    return _HEAD + "\n".join(sections) + _BOUNDS + _bounds() + _REFUSALS + _refusals()


def _forms(forms: tuple[Form, ...]) -> str:
    return "\n".join(
        f"{form.meaning[0].upper()}{form.meaning[1:]}:\n\n{_rows(form)}" for form in forms
    )


def _rows(form: Form) -> str:
    rows = []
    for example in form.examples:
        schedule = parse(example, timezone=_ZONE, now=_NOW)
        rows.append((code(example), plain(words_of(schedule)), _next_times(schedule)))
    return table(["Write", "In words", "Next times"], rows)


def _bounds() -> str:
    rows = []
    for text, option, bounds in _BOUNDED:
        schedule = parse(text, timezone=_ZONE, now=_NOW, bounds=bounds)
        rows.append((code(f'"{text}" {option}'), plain(words_of(schedule)), _next_times(schedule)))
    return table(["Write", "In words", "Next times"], rows)


def _next_times(schedule: Schedule) -> str:
    instant, texts = _NOW, list[str]()
    while len(texts) < _SHOWN and (following := schedule.next_after(instant)) is not None:
        instant = following
        texts.append(_shown(following.astimezone(_NOW.tzinfo)).replace(" ", "&nbsp;"))
    return "<br>".join(texts)


def _shown(local: datetime) -> str:
    seconds = f"{local:%S}.{local.microsecond // 1000:03d}".removesuffix(".000")
    return f"{local:%a %Y-%m-%d %H:%M}" + (f":{seconds}" if seconds != "00" else "")


def _refusals() -> str:
    return table(["Written", "Error"], [(code(text), _refusal(text)) for text in _REFUSED])


def _refusal(text: str) -> str:
    try:
        parse(text, timezone=_ZONE, now=_NOW).next_after(_NOW)
    except ScheduleError as error:
        return plain(str(error))
    raise ValueError(f"{text!r} is refused no more")
