"""The atomic steps, one Lua file each, and a small loader.

A line `--#include name` in a script is replaced by `name.lua`. Each file's header lists its KEYS,
its ARGV and every answer. A script that is called by name lists them as `1 run: what it is`; then
its callers say what is which, and the header says where it stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from operator import itemgetter
from typing import Any, TypeVar

_INCLUDE = re.compile(r"^--#include (\w+)$", re.MULTILINE)
_HEADER = re.compile(r"^-- KEYS(.*?)^-- ARGV(.*?)^-- Answers", re.MULTILINE | re.DOTALL)
#: `2 now_ms`, or `3 reason: '' = none`.
_NAMED = re.compile(r"(?:^| {3})(\d+) ([a-z]\w*)(?=:| {3}|$)")
#: What follows this is as long as the caller wants.
_MORE = re.compile(r"(?:^| {3})then ")
_T = TypeVar("_T")


class Names:
    """The names of a script's keys, or of its arguments, in their order."""

    def __init__(self, script: str, table: str, names: tuple[str, ...], *, has_more: bool) -> None:
        """`table` says which of both; `has_more` says whether a list may follow the names."""
        self.script, self.table = script, table
        self.names, self.has_more = names, has_more
        self._count = len(names)
        self._picked = itemgetter(*names) if len(names) > 1 else _only(names[0])

    def in_order(self, given: Mapping[str, _T], more: Sequence[_T]) -> Sequence[_T]:
        """The values in the order of the header, then those that follow.

        Raises TypeError where one is missing, or is none of the script's.
        """
        if len(given) != self._count:
            raise self._misnamed(given)
        try:
            found: tuple[_T, ...] = self._picked(given)
        except KeyError:
            raise self._misnamed(given) from None
        if not more:
            return found
        if not self.has_more:
            raise TypeError(f"{self.script}.lua: its header names no {self.table} that follow")
        return (*found, *more)

    def _misnamed(self, given: Mapping[str, object]) -> TypeError:
        names = {*self.names}
        missing, unknown = names - given.keys(), given.keys() - names
        return TypeError(
            f"{self.script}.lua: {self.table} without {sorted(missing)}, "
            f"and with {sorted(unknown)}, which its header does not name"
        )


def _only(name: str) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    return lambda given: (given[name],)


@cache
def source(name: str) -> str:
    """The text of one script, includes resolved."""
    text = files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda match: source(match.group(1)), text)


@cache
def names(name: str) -> tuple[Names, Names]:
    """The names of a script's keys and arguments, as its header lists them; read once."""
    header = _HEADER.search(source(name))
    if header is None:
        raise ValueError(f"{name}.lua: no header with KEYS, ARGV and Answers")
    keys, args = header.groups()
    return _names(name, "keys", keys), _names(name, "arguments", args)


def _names(script: str, table: str, text: str) -> Names:
    lines = (line.removeprefix("--").strip() for line in text.splitlines())
    fixed, *more = _MORE.split("   ".join(line for line in lines if line), maxsplit=1)
    found = _NAMED.findall(fixed)
    if [int(number) for number, _ in found] != list(range(1, len(found) + 1)) or not found:
        raise ValueError(f"{script}.lua: its header does not name its {table} one by one")
    return Names(script, table, tuple(name for _, name in found), has_more=bool(more))
