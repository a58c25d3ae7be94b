"""The options of `add` and `edit`: one for each field of the table, and how its text is read.

An empty text clears the field, whatever its type.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping
from datetime import datetime
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo

import click

from hermes_celery.cli.scope import default_zone
from hermes_celery.core.fields import FIELDS, Field
from hermes_celery.errors import HermesCeleryError

_Command = TypeVar("_Command")
_ABSENT: Final = object()


class _Read:
    """A value that was read from a text; it may be None."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Text(click.ParamType[_Read]):
    """A parameter type: reads a text as the value of one field."""

    def __init__(self, field: Field) -> None:
        self.name = field.name
        self._field = field

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> _Read:
        """Return the text's value.

        Raises HermesCeleryError when the job is refused, BadParameter when the text is unreadable.
        """
        if isinstance(value, _Read):
            return value
        if value == "":
            return _Read(_cleared(self._field))
        try:
            read = self._field.read(value)
        except HermesCeleryError:
            raise
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if isinstance(read, datetime) and read.tzinfo is None:
            read = read.replace(tzinfo=ZoneInfo(default_zone()))
        return _Read(read)


def field_options(*, without: Collection[str] = ()) -> Callable[[_Command], _Command]:
    """Return a decorator that adds an option for each field except those in `without`."""
    options = [
        option for field in FIELDS if field.option and field.name not in without
        for option in _options(field)
    ]  # fmt: skip

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def take_fields(typed: MutableMapping[str, Any]) -> dict[str, Any]:
    """Remove the fields from the typed options and return the given ones: name -> value."""
    given = {}
    for field in FIELDS:
        if field.option:
            parts = {part.name: typed.pop(part.name) for part in field.parts}
            value = _value(field, typed.pop(field.name, None), parts)
            if value is not _ABSENT:
                given[field.name] = value
    return given


def _options(field: Field) -> list[Any]:
    if field.is_switch:
        return [click.option(*field.option, field.name, default=None, help=field.help)]
    own = click.option(
        *field.option,
        field.name,
        type=str if field.join else _Text(field),
        metavar=field.metavar,
        multiple=field.is_many,
        nargs=field.words,
        help=field.help,
    )
    parts = [
        click.option(
            part.option, part.name, metavar=part.metavar, multiple=part.is_many, help=part.help
        )
        for part in field.parts
    ]
    return [own, *parts]


def _value(field: Field, typed: Any, parts: Mapping[str, Any]) -> Any:
    """Return the value that was typed for a field, or `_ABSENT`."""
    if field.join is not None:
        return _joined(field, typed, parts)
    if field.is_many:
        values = [one.value for one in typed if one.value != field.empty]
        return values or field.empty if typed else _ABSENT
    if typed is None:
        return _ABSENT
    return typed.value if isinstance(typed, _Read) else typed


def _joined(field: Field, typed: Any, parts: Mapping[str, Any]) -> Any:
    is_given = bool(typed and any(typed))
    try:
        joined = field.join(typed if is_given else None, parts) if field.join else None
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if is_given:
        return joined
    return _ABSENT if typed is None else _cleared(field)


def _cleared(field: Field) -> Any:
    if field.is_required:
        raise click.UsageError(f"a job needs a {field.name}, so '' cannot clear it; give a value")
    return field.empty
