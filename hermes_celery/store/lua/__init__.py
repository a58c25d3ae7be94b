"""The atomic steps, one Lua file each, and a small loader.

A line `--#include name` in a script is replaced by the content of `name.lua`. Each file's header
lists its KEYS, its ARGV and every answer. A script that is called by name lists its keys and
arguments as `1 run: description`; callers then pass them by name, and the header gives the order.
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
#: Matches `2 now_ms`, or `3 reason: '' = none`.
_NAMED = re.compile(r"(?:^| {3})(\d+) ([a-z]\w*)(?=:| {3}|$)")
#: Begins the part of a header that describes a list of any length.
_MORE = re.compile(r"(?:^| {3})then ")
_T = TypeVar("_T")


class Names:
    """The names of a script's keys, or of its arguments, in order."""

    def __init__(self, script: str, table: str, names: tuple[str, ...], *, has_more: bool) -> None:
        """`table` is "keys" or "arguments"; with `has_more` a list may follow the names."""
        self.script, self.table = script, table
        self.names, self.has_more = names, has_more
        self._count = len(names)
        self._picked = itemgetter(*names) if len(names) > 1 else _only(names[0])

    def in_order(self, given: Mapping[str, _T], more: Sequence[_T]) -> Sequence[_T]:
        """Return the values in the order of the header, then `more`.

        Raises TypeError for a missing or unknown name.
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
            raise TypeError(f"{self.script}.lua: its header allows no further {self.table}")
        return (*found, *more)

    def _misnamed(self, given: Mapping[str, object]) -> TypeError:
        names = {*self.names}
        missing, unknown = names - given.keys(), given.keys() - names
        return TypeError(
            f"{self.script}.lua: {self.table}: missing {sorted(missing)}, "
            f"not in its header {sorted(unknown)}"
        )


def _only(name: str) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    return lambda given: (given[name],)


@cache
def source(name: str) -> str:
    """Return the text of one script, with its includes."""
    text = files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda match: source(match.group(1)), text)


@cache
def names(name: str) -> tuple[Names, Names]:
    """Return the names of a script's keys and arguments from its header; read once."""
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
