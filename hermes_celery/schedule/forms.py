"""All forms in which a schedule can be written, with examples that parse.

`hermes-celery explain --forms` prints them, and the reference page is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Form:
    """One form, with examples of it."""

    meaning: str
    examples: tuple[str, ...]


#: The forms under their headings.
FORMS: Final[Mapping[str, tuple[Form, ...]]] = {
    "Cron": (
        Form(
            "minute, hour, day of the month, month, weekday; Sunday is 0 or 7, and names may be in "
            "any case",
            ("0 9 * * 1-5", "*/15 9-17 * * mon-fri", "30 6 1 JAN,Jul *"),
        ),
        Form(
            "a sixth field for seconds, a seventh for years (1970-2099)",
            ("0 9 * * 1 30", "0 9 1 1 * 0 2030"),
        ),
        Form(
            "the last day of the month, or the given number of days before it",
            ("0 9 L * *", "0 9 L-3 * *"),
        ),
        Form(
            "the weekday (Monday to Friday) nearest to a day; `LW` is the last one of the month",
            ("0 9 15W * *", "0 9 1W,15W * *", "0 9 LW * *", "0 9 L-3W * *"),
        ),
        Form(
            "the last, or the n-th, of a weekday in the month",
            ("0 9 * * 5L", "0 9 * * friL", "0 9 * * fri#L", "0 9 * * fri#2", "0 9 * * mon,fri#2"),
        ),
        Form("a day of the month or a weekday, if both are given", ("0 9 1,15 * 5",)),
        Form(
            "a day of the month and a weekday, if one of the two fields begins with `*`, as in "
            "crontab(5)",
            ("0 9 */2 * 5", "0 9 1-7 * */2"),
        ),
        Form("a day of the month and a weekday, with `+`", ("0 9 1-7 * +sat",)),
        Form(
            "`H`: a value that is fixed for each job and differs between jobs, to spread the load",
            ("H 3 * * *", "H/15 * * * *", "H(0-29) * * * *"),
        ),
        Form(
            "the names of crontab(5); `@reboot` is refused",
            ("@hourly", "@daily", "@weekly", "@monthly", "@yearly"),
        ),
        Form(
            "a time zone before the expression, which wins over the job's",
            ("CRON_TZ=America/New_York 0 9 * * *",),
        ),
    ),
    "Phrases": (
        Form(
            "days and times of the local clock",
            ("every monday 9am", "weekdays at 9am", "daily at 9am and 5:30pm", "mon, wed at noon"),
        ),
    ),
    "Intervals": (
        Form(
            "elapsed time, counted from when the job was added, without drift",
            ("every 30m", "30m", "every 1h30m", "every 0.5s", "every 2 weeks"),
        ),
    ),
    "Once": (
        Form("a duration from now", ("in 45m",)),
        Form(
            "a time; local in the job's zone unless it has an offset",
            ("2027-03-28T14:00", "2027-03-28T14:00+02:00"),
        ),
    ),
    "Combined": (
        Form(
            "a fixed time after each occurrence, as Celery's `countdown`",
            ("0 9 * * * delayed 10s",),
        ),
        Form("several schedules for one job", ("0 9 * * 1-5 | 0 12 * * 0,6",)),
    ),
}
