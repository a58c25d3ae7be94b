"""The page of the command line, from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

import click

from docs.generate.markdown import block, code, table
from hermes_celery.cli import main
from hermes_celery.cli.commands import COMMANDS
from hermes_celery.core.fields import GROUPS

_PROGRAM = "hermes-celery"
_HEAD = """\
# Command line

Every command with its arguments and options, as `hermes-celery COMMAND --help` prints them.
[Exit codes](exit-codes.md) lists the codes that commands exit with. `-h` and `--help` print a
command's help and do nothing else.

"""
_BELOW_CELERY = """\
## Below `celery`

Celery has the same commands below `cron`, for the app that it is given:

```
celery -A shop cron list
```

This is `hermes-celery -A shop list`.
"""

#: How an option is written, and what its help says.
_Record = tuple[str, str]


def page() -> str:
    """Return the whole page."""
    top = click.Context(main, info_name=_PROGRAM)
    index = table(
        ["Command", "Meaning"],
        [(f"[{code(name)}](#{name})", text) for name, (_, text) in COMMANDS.items()],
    )
    parts = [_HEAD + "\n".join(_described(top)), "## Commands\n", index]
    for name in COMMANDS:
        parts += _command(_below(top, name))
    return "\n".join([*parts, _BELOW_CELERY])


def _below(context: click.Context, name: str) -> click.Context:
    """Return the context of a subcommand. Raises KeyError."""
    group = context.command
    command = group.get_command(context, name) if isinstance(group, click.Group) else None
    if command is None:
        raise KeyError(name)
    return click.Context(command, info_name=name, parent=context)


def _command(context: click.Context) -> Iterator[str]:
    """Yield the section of a command and those of its subcommands."""
    _, *words = context.command_path.split()
    yield f"#{'#' * len(words)} {code(' '.join(words))}\n"
    yield from _described(context)
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            yield from _command(_below(context, name))


def _described(context: click.Context) -> Iterator[str]:
    command = context.command
    summary, *paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    yield summary + "\n"
    yield block(f"{context.command_path} {' '.join(command.collect_usage_pieces(context))}")
    yield from map(_paragraph, paragraphs)
    options = _options(context)
    if context.info_name == "add":
        yield from _in_groups(options)
    elif context.info_name == "edit" and context.parent is not None:
        shared = _options(_below(context.parent, "add")).values()
        yield _table([record for record in options.values() if record not in shared])
        yield "It also has the options of [`add`](#add), for the fields of the same name.\n"
    elif options:
        yield _table(list(options.values()))
    if command.epilog:
        yield command.epilog + "\n"


def _paragraph(text: str) -> str:
    """Return a paragraph of a help text; click marks one whose lines stay as they are."""
    if text.startswith("\b\n"):
        return block(text.removeprefix("\b\n"))
    return text + "\n"


def _options(context: click.Context) -> dict[str, _Record]:
    """Return the options of a command by their name."""
    records = {
        str(option.name): option.get_help_record(context)
        for option in context.command.get_params(context)
        if isinstance(option, click.Option) and "--help" not in option.opts
    }
    return {name: record for name, record in records.items() if record is not None}


def _in_groups(options: dict[str, _Record]) -> Iterator[str]:
    """Yield the options of fields under their heading, then the others."""
    rest = dict(options)
    for heading, fields in GROUPS.items():
        names = [part for field in fields for part in (field.name, *(p.name for p in field.parts))]
        found = [rest.pop(name) for name in names if name in rest]
        yield f"**{heading}**\n"
        yield _table(found)
    yield "**The command itself**\n"
    yield _table(list(rest.values()))


def _table(records: Sequence[_Record]) -> str:
    return table(["Option", "Meaning"], [(code(option), text) for option, text in records])
