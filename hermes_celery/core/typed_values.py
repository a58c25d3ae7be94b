"""Write a task's arguments into a stored job, and read them back.

The stored form is JSON. Types that JSON lacks are written as kombu writes them into messages, so
that a task gets the same arguments as from Celery's own beat:

    {"__type__": "datetime", "__value__": "2024-01-02T00:00:00+00:00"}

`plain` writes this form. It loses what JSON loses: a tuple becomes a list, a key becomes a text,
and `inf` becomes null. `exact` keeps these too, in the same form under types of our own; it is for
projects whose serializer is not JSON. A value that neither form can keep is refused, with its place
among the arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final

from hermes_celery.core.arguments import stored_text
from hermes_celery.errors import JobError, shown, with_article

_KEYS: Final = {"__type__", "__value__"}
#: Types of `exact` that kombu lacks, and how their values are read.
_OURS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "hermes_celery.tuple": tuple,
    "hermes_celery.dict": dict,
    "hermes_celery.float": float,
}


def plain(value: Any, *, place: str) -> Any:
    """Return a value as Celery's JSON writes it; messages call it `place`. Raises JobError."""
    return _Writer(is_exact=False).write(value, place)


def exact(value: Any, *, place: str) -> Any:
    """Do the same as `plain`, but keep tuples, keys and special numbers. Raises JobError."""
    return _Writer(is_exact=True).write(value, place)


def live(value: Any) -> Any:
    """Return the Python objects that `plain` or `exact` wrote.

    A value of an unknown type stays as it is written, because the worker may know the type. Raises
    ValueError for a value that its type cannot have.
    """
    if isinstance(value, list):
        return [live(item) for item in value]
    if not isinstance(value, dict):
        return value
    items = {key: live(item) for key, item in value.items()}
    return _typed(items) if items.keys() == _KEYS else items


def _typed(items: dict[str, Any]) -> Any:
    from kombu.utils.json import _decoders  # projects register their own types there

    name = items["__type__"]
    read = (_OURS.get(name) or _decoders.get(name)) if isinstance(name, str) else None
    if read is None:
        return items
    try:
        return read(items["__value__"])
    except Exception as error:  # noqa: BLE001 - each type raises its own; projects add theirs
        raise ValueError(f"{str(items)[:200]} is not a {name}: {error}") from None


class _Writer:
    def __init__(self, *, is_exact: bool) -> None:
        self._is_exact = is_exact

    def write(self, value: Any, place: str) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return _text(value, place)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return self._float(float(value))
        if isinstance(value, dict):
            return self._dict(value, place)
        if isinstance(value, list | tuple):
            items = [self.write(item, f"{place}[{at}]") for at, item in enumerate(value)]
            return self._as("tuple", items) if isinstance(value, tuple) else items
        return self._other(value, place)

    def _as(self, name: str, value: Any) -> Any:
        typed = {"__type__": f"hermes_celery.{name}", "__value__": value}
        return typed if self._is_exact else value

    def _float(self, value: float) -> Any:
        if isfinite(value):
            return value
        return self._as("float", str(value)) if self._is_exact else None

    def _dict(self, value: dict[Any, Any], place: str) -> Any:
        written = {key: self.write(item, f"{place}[{key!r}]") for key, item in value.items()}
        if all(isinstance(key, str) for key in written):
            return {_key(key, place): item for key, item in written.items()}
        keys = {key: _key(key, place) for key in written}
        if self._is_exact:
            return self._as("dict", [[key, item] for key, item in written.items()])
        return {keys[key]: item for key, item in written.items()}

    def _other(self, value: Any, place: str) -> Any:
        from kombu.utils.json import JSONEncoder  # slow to import and rarely needed

        try:
            written = JSONEncoder().default(value)
        except Exception:  # noqa: BLE001 - the user's own class may do anything; it is refused
            raise JobError(_refusal(value, place)) from None
        return self.write(written, place)


def _text(value: str, place: str) -> str:
    """Return a text as a plain str. Raises JobError for one that cannot be stored."""
    return stored_text(str.__str__(value), name=place)


def _key(key: Any, place: str) -> str:
    """Return a key as JSON writes it."""
    if isinstance(key, str):
        return _text(key, f"a key of {place}")
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, int | float):
        return repr(key)
    raise JobError(
        f"{place} has the key {shown(key)}, {with_article(type(key).__name__)}; use texts as keys"
    )


def _refusal(value: object, place: str) -> str:
    kind = type(value)
    if isinstance(value, set | frozenset):
        return f"{place} is a set, which a message cannot carry; give a list"
    named = f" {value.__qualname__}" if hasattr(value, "__qualname__") else ""
    known = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return (
        f"{place} is {with_article(known + kind.__qualname__)}{named}, which cannot be stored; "
        "give text, numbers, lists, dicts, dates, times, Decimal, UUID or bytes"
    )
