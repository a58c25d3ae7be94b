"""All pages by the name of their file in `docs/reference/`."""

from __future__ import annotations

from collections.abc import Callable

from docs.generate import (
    command_line,
    events,
    exit_codes,
    job_fields,
    python,
    schedules,
    settings,
    states,
)

PAGES: dict[str, Callable[[], str]] = {
    "command-line.md": command_line.page,
    "settings.md": settings.page,
    "job-fields.md": job_fields.page,
    "schedules.md": schedules.page,
    "states.md": states.page,
    "exit-codes.md": exit_codes.page,
    "events.md": events.page,
    "python.md": python.page,
}
