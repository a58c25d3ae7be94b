"""What is typed: three jobs on an embedded server, and the commands that show them."""

from __future__ import annotations

import json
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docs.generate.screens.masks import ZONE, Masks
from docs.generate.screens.terminal import Typed, wait_until

_PROGRAMS = Path(sys.executable).parent
#: The scene that adds the jobs, then a job that the scenes only list.
_ADDED = (
    'add "daily at 9am" --script report.sh --no-agent --name report',
    'add "0 2 * * *" --script backup.sh --no-agent --name backup',
)
_ALSO_ADDED = 'add "every 1h" --http GET https://example.com/health --name health --paused'
_RUN = ("run report --wait", "run backup --wait")
_SCRIPTS = {
    "report.sh": "echo 12 orders, 3 of them open\n",
    "backup.sh": "echo 'no space left on device' >&2\nexit 3\n",
}
#: The scenes that only read, each with the commands that it shows.
_READING = {
    "list": ("list",),
    "runs": ("runs",),
    "show": ("show backup",),
    "status": ("status",),
    "doctor": ("doctor",),
    "incidents": ("incidents",),
    "explain": (f'explain "30 2 * * *" --tz {ZONE} --from 2027-03-26',),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One command as it is typed, and what it prints."""

    command: str
    printed: str


@dataclass(frozen=True, slots=True)
class _Stage:
    """The directory that the scenes are played in."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": f"{_PROGRAMS}:/usr/bin:/bin",
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "HERMES_TIMEZONE": ZONE,
        }

    def words(self, command: str) -> list[str]:
        return [str(_PROGRAMS / "hermes-celery"), *shlex.split(command)]

    def type(self, command: str) -> Typed:
        return Typed(self.words(command), environment=self.environment, directory=self.home)

    def steps(self, commands: Iterable[str]) -> list[Step]:
        return [Step(f"hermes-celery {one}", self.type(one).ended()) for one in commands]

    def json(self, command: str) -> list[dict[str, Any]]:
        """Return what a command prints as JSON; it is part of no scene."""
        done = subprocess.run(
            self.words(f"{command} --json"),
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            check=False,
            timeout=60,
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found


def played() -> dict[str, list[Step]]:
    """Play all scenes, and return what each of them shows, masked."""
    with _stage() as stage:
        masks, up = Masks(home=str(stage.home)), stage.type("up")
        try:
            wait_until(lambda: "Ctrl-C stops" in up.text, what="up")
            scenes = {"add": stage.steps(_ADDED)}
            stage.steps([_ALSO_ADDED])
            masks.note_next_runs(
                {one["next_run_at"]: one["schedule"]["display"] for one in stage.json("list")}
            )
            scenes["run"] = stage.steps(_RUN)
            wait_until(lambda: bool(stage.json("incidents")), what="the incident")
            wait_until(lambda: _is_compared(stage), what="a comparison of all records")
            scenes |= {name: stage.steps(commands) for name, commands in _READING.items()}
            wait_until(lambda: "backup: failed" in up.text, what="the end of a run")
        finally:
            up.interrupt()
            printed = up.ended()
    scenes["up"] = [Step("hermes-celery up", printed)]
    return {name: [_masked(step, masks) for step in steps] for name, steps in scenes.items()}


def _masked(step: Step, masks: Masks) -> Step:
    return Step(step.command, masks.masked(step.printed))


def _is_compared(stage: _Stage) -> bool:
    return any(
        finding["check"] == "records" and finding["text"].startswith("3 jobs")
        for finding in stage.json("doctor")
    )


@contextmanager
def _stage() -> Iterator[_Stage]:
    home = Path(f"/tmp/{secrets.token_hex(2)}")
    scripts = home / ".hermes" / "scripts"
    scripts.mkdir(parents=True)
    try:
        for name, text in _SCRIPTS.items():
            (scripts / name).write_text(text, encoding="utf-8")
        yield _Stage(home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
