"""All pages by the name of their file in `docs/reference/`."""

from __future__ import annotations

from collections.abc import Callable

from docs.generate import events, job_fields, settings

PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings.page,
    "job-fields.md": job_fields.page,
    "events.md": events.page,
}
