"""Commands exit with the codes that their help and the reference page name."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from hermes_celery.cli import main
from hermes_celery.cli.commands import COMMANDS
from hermes_celery.cli.exit_codes import EXITS, ExitCode


@pytest.mark.parametrize("command", EXITS)
def test_the_help_of_a_command_names_its_exit_codes(command: str) -> None:
    assert command in COMMANDS
    shown = " ".join(CliRunner().invoke(main, [command, "--help"]).output.split())
    for one in EXITS[command]:
        assert str(one) in shown


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("explain @hourly", ExitCode.DONE),
        ("explain nonsense", ExitCode.FAILED),
        ("explain", ExitCode.USAGE),
        ("explain @hourly --nonsense", ExitCode.USAGE),
        ("nonsense", ExitCode.USAGE),
        ("runs -n 0", ExitCode.USAGE),
    ],
)
def test_a_command_exits_with_the_code_for_its_result(typed: str, code: ExitCode) -> None:
    assert CliRunner().invoke(main, typed.split()).exit_code == code
