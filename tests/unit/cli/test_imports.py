"""A command imports only what it needs, since imports are nearly all of its start-up time.

Celery takes a seventh of a second and redis-py a tenth.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_CELERY = ("celery", "kombu", "billiard", "requests", "apprise", "jinja2")
_NO_SERVER = (*_CELERY, "redis", "asyncio")
#: Runs a command, then prints on stderr which of the given modules it has imported.
_PROGRAM = """
import json, sys
sys.argv[0] = "hermes-celery"
from hermes_celery.cli import main
heavy = json.loads(sys.argv.pop(1))
try:
    main()
finally:
    print(json.dumps([name for name in heavy if name in sys.modules]), file=sys.stderr)
"""


def imported(*arguments: str, heavy: tuple[str, ...], environment: dict[str, str]) -> list[str]:
    """Return those of the `heavy` modules that a command imports."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(heavy), *arguments],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stderr.strip().splitlines()[-1])
    return found


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["next", "every 1h"], ["explain", "0 9 * * *"]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_commands_without_a_server_import_neither_celery_nor_redis(
    tmp_path: Path, arguments: list[str]
) -> None:
    environment = {"HERMES_HOME": str(tmp_path), "HERMES_TIMEZONE": "UTC"}
    assert imported(*arguments, heavy=_NO_SERVER, environment=environment) == []


def test_the_help_imports_click_and_little_else(tmp_path: Path) -> None:
    heavy = (
        "rich",
        "msgspec",
        "ssl",
        "zoneinfo",
        "hermes_celery.settings",
        "hermes_celery.wiring.collaborators",
    )
    assert imported("--help", heavy=heavy, environment={"HERMES_HOME": str(tmp_path)}) == []


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["list", "--json"], ["show", "one"], ["runs"], ["status"], ["incidents"],
     ["letters"], ["pause", "one"], ["remove", "one"]],
    ids=" ".join,
)  # fmt: skip
def test_commands_that_read_or_change_a_job_import_no_celery(
    tmp_path: Path, valkey_url: str, namespace: str, arguments: list[str]
) -> None:
    environment = {
        "HERMES_HOME": str(tmp_path),
        "HERMES_TIMEZONE": "UTC",
        "HERMES_REDIS_URL": valkey_url,
        "HERMES_CELERY_NAMESPACE": namespace,
    }
    added = [sys.executable, "-m", "hermes_celery", "add", "every 1h", "say hi", "--name", "one"]
    subprocess.run(
        added, env={**os.environ, **environment}, check=True, capture_output=True, timeout=60
    )
    assert imported(*arguments, heavy=_CELERY, environment=environment) == []
