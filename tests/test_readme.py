"""What the README shows is so: commands parse, printed output is printed, tests and files exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from hermes_celery.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Every `hermes-celery ...` that is typed in a console block, continued lines joined."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ hermes-celery "):
                found.append(line.removeprefix("$ hermes-celery "))
    return found


def words(command: str) -> list[str]:
    return shlex.split(command, comments=True)


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_parses(command: str) -> None:
    name, *arguments = words(command)
    found = main.get_command(main.make_context("hermes-celery", [name]), name)
    assert found is not None
    found.make_context(name, list(arguments))


def printed() -> list[tuple[str, str]]:
    """Commands of the README that need no server, with what it says they print."""
    pairs = []
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            if command.startswith(("hermes-celery next", "hermes-celery explain")):
                pairs.append((command.removeprefix("hermes-celery "), output))
    return pairs


@pytest.mark.parametrize(("command", "output"), printed())
def test_what_is_shown_is_what_is_printed(command: str, output: str) -> None:
    result = CliRunner().invoke(main, words(command))
    assert result.stdout + result.stderr == output


def test_every_file_that_is_linked_or_named_exists() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    named = re.findall(r"`((?:tests|bench|proof|deploy|hermes_celery)/[\w./]+)`", README)
    for path in [*links, *named]:
        assert (ROOT / path).exists(), path


def test_every_test_that_shows_a_promise_exists() -> None:
    sources = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)…?`", README):
        assert f"def {name}" in sources, name


def test_the_python_blocks_compile() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
