"""Check that each field of a value has its declared type.

Python accepts `JobRequest(queue=5)`. This check names the wrong field at once, before the value
fails somewhere else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from enum import Enum
from functools import cache
from types import NoneType
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgspec

from hermes_celery.errors import JobError, shown, with_article

_WORDS: Final = {
    str: ("a text", "texts"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "True or False"),
    datetime: ("a datetime", "datetimes"),
}


def check_fields(value: msgspec.Struct, *, of: str = "") -> None:
    """Refuse a field whose type differs from its declaration; `of` is put before its name.

    The values of an enum are accepted in place of its members. Raises JobError.
    """
    for name, hint in _hints(type(value)).items():
        given = getattr(value, name)
        if not _fits(given, hint):
            raise JobError(f"{of}{name} is {shown(given)}; it must be {_words(hint)}")
        if isinstance(given, msgspec.Struct) and hint is not Any:
            check_fields(given, of=f"{of}{name}.")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    items = get_args(hint)
    origin = get_origin(hint)
    if origin is None:
        return _is_a(value, hint)
    if issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _fits(key, items[0]) and _fits(item, items[1]) for key, item in value.items()
        )
    if issubclass(origin, Collection):
        return isinstance(value, list | tuple | set | frozenset) and all(
            _fits(item, items[0]) for item in value
        )
    return any(_fits(value, item) for item in items)


def _is_a(value: Any, kind: type) -> bool:
    if issubclass(kind, Enum):
        return isinstance(value, str) and value in [one.value for one in kind]
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def _words(hint: Any, *, many: bool = False) -> str:
    items = get_args(hint)
    origin = get_origin(hint)
    if origin is None:
        return _kind_words(hint, many=many)
    if issubclass(origin, Mapping):
        return "a dict with texts as keys and values"
    if issubclass(origin, Collection):
        return f"a list of {_words(items[0], many=True)}"
    return " or ".join(_words(item) for item in items if item is not NoneType)


def _kind_words(kind: type, *, many: bool) -> str:
    if kind in _WORDS:
        return _WORDS[kind][many]
    if issubclass(kind, Enum):
        return f"one of {', '.join(one.value for one in kind)}"
    # One reads the H of HttpCall as a letter.
    name = kind.__name__
    return f"{'an ' + name if name[0] == 'H' else with_article(name)}(...)"
