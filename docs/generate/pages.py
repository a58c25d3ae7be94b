"""All pages by the name of their file in `docs/reference/`."""

from __future__ import annotations

from collections.abc import Callable

from docs.generate import job_fields

PAGES: dict[str, Callable[[], str]] = {
    "job-fields.md": job_fields.page,
}
