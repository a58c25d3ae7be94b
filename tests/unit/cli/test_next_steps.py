"""The commands that `up` suggests work when they are pasted into a new terminal."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from hermes_celery.cli.next_steps import needs_the_server_url, next_steps
from hermes_celery.settings import read_settings

PROGRAM = Path(sys.executable).parent / "hermes-celery"


def last_step(environment: dict[str, str], **settings: str) -> list[str]:
    """Return the words of the last line, which is `list`."""
    return shlex.split(next_steps(read_settings(settings), environment=environment)[-1])


def test_on_path_and_with_default_settings_the_name_suffices() -> None:
    assert last_step({"PATH": str(PROGRAM.parent)}) == ["hermes-celery", "list"]


def test_a_program_that_is_not_on_path_is_named_with_its_path() -> None:
    assert last_step({"PATH": "/nowhere"}) == [str(PROGRAM), "list"]


def test_with_another_program_of_that_name_on_path_the_full_path_is_shown(tmp_path: Path) -> None:
    other = tmp_path / "hermes-celery"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    assert last_step({"PATH": str(tmp_path)}) == [str(PROGRAM), "list"]


def test_in_an_activated_environment_the_full_path_is_shown() -> None:
    environment = {"PATH": str(PROGRAM.parent), "VIRTUAL_ENV": str(PROGRAM.parent.parent)}
    assert last_step(environment) == [str(PROGRAM), "list"]


def test_home_server_and_namespace_are_named_if_they_are_not_the_defaults(
    tmp_path: Path,
) -> None:
    home = tmp_path / "a home"
    words = last_step(
        {"PATH": str(PROGRAM.parent)},
        HERMES_HOME=str(home),
        HERMES_REDIS_URL="redis://box:6379/1",
        HERMES_CELERY_NAMESPACE="night",
    )
    assert words == [
        *(f"HERMES_HOME={home}", "HERMES_REDIS_URL=redis://box:6379/1", "hermes-celery"),
        *("-N", "night", "list"),
    ]


@pytest.mark.parametrize(
    "url", ["redis://:secret@box:6379/1", "redis://box:6379/1?password=secret"]
)
def test_a_password_is_not_printed(url: str) -> None:
    settings = read_settings({"HERMES_REDIS_URL": url})
    assert needs_the_server_url(settings)
    assert "secret" not in "".join(next_steps(settings, environment={}))


def test_the_suggested_script_overwrites_no_existing_one(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "disk.sh").touch()
    (scripts / "disk-2.sh").touch()
    make, add, *_ = next_steps(read_settings({"HERMES_HOME": str(tmp_path)}), environment={})
    assert make.endswith(f"> {scripts}/disk-3.sh")
    assert "--script disk-3.sh" in add
