"""Read the `.env` files of a Hermes home for each run, into a mapping of its own.

Nothing is written to `os.environ`, so concurrent runs need no lock and never see each other's
profile.
"""

from __future__ import annotations

import re
from pathlib import Path

from hermes_celery.errors import JobError

_PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def profile_home(home: Path, profile: str) -> Path:
    """Return a profile's directory; the home itself if no profile is named.

    Raises JobError for an invalid name.
    """
    if profile in ("", "default"):
        return home
    if not _PROFILE.fullmatch(profile):
        raise JobError(
            f"{profile!r} is not a valid profile name; use letters, digits, '.', '_' and '-'"
        )
    return home / "profiles" / profile


def dotenv(home: Path, *, profile: str) -> dict[str, str]:
    """Return the variables of the home's `.env`, overridden by the profile's. Raises JobError."""
    from dotenv import dotenv_values  # costs 10 ms that most commands need not pay

    values: dict[str, str] = {}
    for place in dict.fromkeys((home, profile_home(home, profile))):
        file = place / ".env"
        if file.is_file():
            read = dotenv_values(file, encoding="utf-8")
            values |= {name: value for name, value in read.items() if value is not None}
    return values
