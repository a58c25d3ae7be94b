"""Every command that prints JSON has one and the same `--json`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from hermes_celery.cli import main, options

#: What has nothing to print but that it was done, or never ends.
_WITHOUT = {
    "up",
    "cancel",
    "explain",
    "incidents ack",
    "letters clear",
    "redeliver",
}


def commands(group: click.Group, *words: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield " ".join((*words, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, *words, name)


def test_every_command_prints_json_but_for_these() -> None:
    found = {
        name
        for name, command in commands(main)
        if all("--json" not in parameter.opts for parameter in command.params)
    }
    assert found == _WITHOUT


def test_there_is_one_json_option() -> None:
    folder = Path(options.__file__).parent
    assert [path.name for path in folder.rglob("*.py") if '"--json"' in path.read_text()] == [
        "options.py"
    ]
    options_found = [
        parameter
        for _, command in commands(main)
        for parameter in command.params
        if isinstance(parameter, click.Option) and "--json" in parameter.opts
    ]
    assert {(one.name, one.help) for one in options_found} == {
        ("as_json", "Print JSON instead of text.")
    }
