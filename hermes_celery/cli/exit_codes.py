"""The codes that commands exit with: `--help` and the reference page read them here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """A code that every command may exit with."""

    #: The command did what it was asked to do.
    DONE = 0
    #: The command was refused or failed, or was interrupted with Ctrl-C.
    FAILED = 1
    #: The command line is wrong: an unknown command or option, a missing argument, or a value that
    #: its option does not take, such as a word for a number. A schedule, a time of a schedule or a
    #: job's value that is refused, such as a priority of 256, gives 1.
    USAGE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """A code by which one command reports a result."""

    code: str
    #: Completes the sentence "Exits with 1 if ...".
    when: str
    #: The option without which the command does not use the code.
    option: str = ""

    def __str__(self) -> str:
        begin = f"With {self.option}, exits" if self.option else "Exits"
        return f"{begin} with {self.code} if {self.when}."


#: The codes by which commands report a result, by command.
EXITS: Final[Mapping[str, tuple[Exit, ...]]] = {
    "up": (
        Exit(code="0", when="it is stopped with Ctrl-C or SIGTERM"),
        Exit(code="1", when="it cannot start, or its directory or lock is removed while it runs"),
    ),
    "doctor": (Exit(code="1", when="a check fails; a warning is no failure"),),
    "fsck": (Exit(code="1", when="records disagree and were not repaired"),),
    "status": (
        Exit(
            option="--check",
            code="1",
            when="no beat leads, no worker runs, no worker consumes a queue with waiting messages, "
            "or jobs are lost",
        ),
    ),
    "move": (Exit(code="1", when="a job was not moved"),),
    "import": (Exit(code="1", when="a job was refused"),),
    "run": (
        Exit(
            option="--wait",
            code="the exit code of the script or agent",
            when="the run did not succeed and has such a code, from 1 to 255",
        ),
        Exit(
            option="--wait",
            code="1",
            when="the run did not succeed and has no such code, or the server went away meanwhile",
        ),
    ),
}


def exit_note(command: str) -> str | None:
    """Return what a command's help says about its exit codes; None if it has none of its own."""
    return " ".join(map(str, EXITS[command])) if command in EXITS else None
