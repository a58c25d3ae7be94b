"""Every command that prints JSON has the same `--json` option."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from hermes_celery.cli import main, options

#: Commands without `--json`: they print only that they are done, or they never end.
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


def test_every_command_but_the_listed_ones_prints_json() -> None:
    found = {
        name
        for name, command in commands(main)
        if all("--json" not in parameter.opts for parameter in command.params)
    }
    assert found == _WITHOUT


def test_all_commands_share_one_json_option() -> None:
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
