"""The page of environment variables, from `hermes_celery.settings`."""

from __future__ import annotations

from collections.abc import Iterable

from docs.generate.markdown import code, table
from hermes_celery.settings.table import ELSEWHERE, VARIABLES, Variable

_HEAD = """\
# Settings

Settings are environment variables. Each process reads them once, when it starts. An invalid
value ends the process with one sentence that names every variable at fault. A misspelt variable
is not read: `hermes-celery doctor` names it.

Set them to the same values on every machine of one cron. You can start from the file
[hermes-celery.env.example](../../deploy/systemd/hermes-celery.env.example).

"""

_ELSEWHERE = """
## Other variables

"""

_CELERY = """
Celery's own variables `CELERY_BROKER_URL`, `CELERY_BROKER_READ_URL` and `CELERY_BROKER_WRITE_URL`
set the broker of a project, and with it the store. Without a project they must name the same server
as `HERMES_REDIS_URL`.
"""


def page() -> str:
    """Return the whole page."""
    return _HEAD + _rows(VARIABLES.values()) + _ELSEWHERE + _rows(ELSEWHERE) + _CELERY


def _rows(variables: Iterable[Variable]) -> str:
    return table(
        ["Variable", "Default", "Meaning", "Used by"],
        [
            (code(variable.name), _default(variable), variable.meaning, _users(variable))
            for variable in variables
        ],
    )


def _default(variable: Variable) -> str:
    text = variable.default_words or code(variable.default)
    return f"{text} {variable.unit}".strip()


def _users(variable: Variable) -> str:
    return ", ".join(variable.used_by)
