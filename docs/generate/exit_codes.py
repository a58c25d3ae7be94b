"""The page of exit codes, from `hermes_celery.cli.exit_codes`."""

from __future__ import annotations

from docs.generate.comments import comments_of
from docs.generate.markdown import code, table
from hermes_celery.cli.exit_codes import EXITS, ExitCode

_HEAD = """\
# Exit codes

Every command of `hermes-celery` exits with one of these codes:

"""

_COMMANDS = """
An error is one sentence on stderr that says what to do.

## Codes of single commands

These commands report a result by their exit code. Their `--help` says so too.

"""

_PROCESSES = """
## Beat and worker

`celery beat` and `celery worker` exit with 1 if a setting is wrong or their server is unsuitable,
with the reason on stderr. While no server answers, they wait for it. A supervisor such as systemd
starts them again when they end.
"""


def page() -> str:
    """Return the whole page."""
    meanings = comments_of(ExitCode)
    general = table(
        ["Code", "Meaning"], [(code(str(int(one))), meanings[one.name]) for one in ExitCode]
    )
    single = table(
        ["Command", "Code", "When"],
        [
            (_link(name, one.option), one.code, _sentence(one.when))
            for name, found in EXITS.items()
            for one in found
        ],
    )
    return _HEAD + general + _COMMANDS + single + _PROCESSES


def _link(command: str, option: str) -> str:
    return f"[{code(f'{command} {option}'.strip())}](command-line.md#{command})"


def _sentence(clause: str) -> str:
    return clause[0].upper() + clause[1:] + "."
