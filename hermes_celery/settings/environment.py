"""Read the environment, in this module only, and report all faults at once.

An invalid value is refused, except where Hermes replaces it by its default: then so does this
module, and lists the value in `ignored`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from hermes_celery.errors import SettingsError
from hermes_celery.settings.table import ELSEWHERE, VARIABLES, Settings, Variable
from hermes_celery.settings.values import IgnoredValue, timezone


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read all settings from `environ` (default: the environment of this process).

    Raises SettingsError that lists every faulty variable.
    """
    reader = _Reader(os.environ if environ is None else environ)
    settings = _read_all(reader)
    if reader.faults:
        raise SettingsError(reader.faults)
    return settings


def _read_all(reader: _Reader) -> Settings:
    values = {name: reader.read(variable) for name, variable in VARIABLES.items()}
    return Settings(
        **values,
        is_namespace_given=bool(reader.environ.get("HERMES_CELERY_NAMESPACE", "").strip()),
        ignored=tuple(reader.ignored),
    )


def unknown_variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the unknown variables that look like ours, each with the likely correct name or ""."""
    known = {variable.name for variable in (*VARIABLES.values(), *ELSEWHERE)}
    found: dict[str, str] = {}
    for name in sorted(set(os.environ if environ is None else environ) - known):
        # Hermes has variables of its own that begin with HERMES_CRON_.
        is_ours = name.startswith("HERMES_CELERY_")
        meant = next(iter(get_close_matches(name, known, n=1, cutoff=0.8 if is_ours else 0.9)), "")
        if is_ours or (meant and name.startswith("HERMES_CRON_")):
            found[name] = meant
    return found


def default_timezone() -> str:
    """Return the time zone of jobs that name none: HERMES_TIMEZONE, else the machine's.

    Raises SettingsError if HERMES_TIMEZONE is not a time zone.
    """
    try:
        return timezone(os.environ.get("HERMES_TIMEZONE", ""))
    except ValueError as error:
        raise SettingsError([f"HERMES_TIMEZONE: {error}"]) from None


def checked_timezone(name: str) -> str:
    """Return the name of a time zone unchanged. Raises SettingsError if it is not one."""
    try:
        return timezone(name)
    except ValueError as error:
        raise SettingsError([str(error)]) from None


def process_environment() -> dict[str, str]:
    """Return a copy of the environment, for the child processes of runs."""
    return dict(os.environ)


def broker_variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables with which Celery's broker is set, as far as they are set."""
    given = os.environ if environ is None else environ
    names = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
    return {name: given[name] for name in names if given.get(name)}


class _Reader:
    """Reads variables one by one and collects their faults."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.faults: list[str] = []
        self.ignored: list[str] = []

    def read(self, variable: Variable) -> Any:
        text = self.environ.get(variable.name, "").strip() or variable.default
        try:
            return variable.read(text)
        except IgnoredValue as error:
            self.ignored.append(f"{variable.name}: {error}")
        except ValueError as error:
            self.faults.append(f"{variable.name}: {error}")
        return variable.read(variable.default)
