"""Reads from the package's source which events it logs, with which level and fields.

A name may be a text, a choice between texts, a local variable, an entry of a table of the module or
an argument of a function of the module. A name that cannot be read is an error, so that no event is
missed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import hermes_celery

PACKAGE = Path(hermes_celery.__file__).parent
_NO_FIELDS = frozenset(("level", "exc_info"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCall:
    """One call of `event` with one of the names that it may log."""

    name: str
    levels: tuple[str, ...]
    fields: tuple[str, ...]
    #: The module below `hermes_celery`.
    module: str


def log_calls(package: Path = PACKAGE) -> list[LogCall]:
    """Return every event that the package may log. Raises ValueError for an unreadable name."""
    return [
        call
        for path in sorted(package.rglob("*.py"))
        for call in calls_in(
            path.read_text(encoding="utf-8"),
            module=".".join(path.relative_to(package).with_suffix("").parts),
        )
    ]


def calls_in(source: str, *, module: str) -> Iterator[LogCall]:
    """Yield the events that one module may log. Raises ValueError for an unreadable name."""
    tree = ast.parse(source)
    for function, call in _calls_of(tree, "event"):
        values = _Values(tree, function)
        given = {word.arg: word.value for word in call.keywords if word.arg is not None}
        level = given.get("level")
        try:
            names = values.texts(call.args[1])
            levels = ["INFO"] if level is None else values.levels(level)
        except _Unreadable as error:
            raise ValueError(f"{module}, line {call.lineno}: {error}") from None
        for name, at in _paired(names, levels):
            yield LogCall(
                name=name,
                levels=at,
                fields=tuple(field for field in given if field not in _NO_FIELDS),
                module=module,
            )


class _Unreadable(Exception):
    """An expression whose values cannot be read from the source."""

    def __init__(self, expression: ast.expr) -> None:
        super().__init__(f"cannot read the values of {ast.unparse(expression)}")


def _paired(names: list[str], levels: list[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each name with its levels; those of a table of pairs belong to one name each."""
    if len(names) == len(levels) > 1:
        pairs = dict.fromkeys(zip(names, levels, strict=True))
        yield from ((name, (level,)) for name, level in pairs)
    else:
        yield from ((name, tuple(dict.fromkeys(levels))) for name in dict.fromkeys(names))


def _calls_of(tree: ast.AST, name: str) -> Iterator[tuple[ast.FunctionDef | None, ast.Call]]:
    """Yield the calls of a function with the innermost function that each stands in."""
    inside: list[tuple[ast.AST, ast.FunctionDef | None]] = [(tree, None)]
    while inside:
        node, function = inside.pop()
        if isinstance(node, ast.FunctionDef):
            function = node
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name:
            yield function, node
        inside += [(child, function) for child in ast.iter_child_nodes(node)]


class _Values:
    """The values that an expression may have within a function of a module."""

    def __init__(self, tree: ast.Module, function: ast.FunctionDef | None) -> None:
        self._tree = tree
        self._function = function

    def texts(self, expression: ast.expr) -> list[str]:
        return [self._text(one) for one in self._simple(expression)]

    def levels(self, expression: ast.expr) -> list[str]:
        return [self._level(one) for one in self._simple(expression)]

    @staticmethod
    def _text(expression: ast.expr) -> str:
        if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
            return expression.value
        raise _Unreadable(expression)

    @staticmethod
    def _level(expression: ast.expr) -> str:
        text = ast.unparse(expression)
        if text.startswith("logging."):
            return text.removeprefix("logging.")
        raise _Unreadable(expression)

    def _simple(self, expression: ast.expr) -> Iterator[ast.expr]:
        """Yield the expressions that this one may stand for."""
        if isinstance(expression, ast.IfExp):
            yield from self._all((expression.body, expression.orelse))
        elif isinstance(expression, ast.JoinedStr):
            parts = [list(self._simple(part)) for part in expression.values]
            for texts in product(*parts):
                yield ast.Constant("".join(self._text(text) for text in texts))
        elif isinstance(expression, ast.FormattedValue):
            yield from self._simple(expression.value)
        elif isinstance(expression, ast.Subscript):
            yield from self._all(_entries(self._tree, expression.value))
        elif isinstance(expression, ast.Name):
            yield from self._all(self._named(expression))
        else:
            yield expression

    def _all(self, expressions: Iterable[ast.expr]) -> Iterator[ast.expr]:
        for expression in expressions:
            yield from self._simple(expression)

    def _named(self, name: ast.Name) -> list[ast.expr]:
        found = [*self._assigned(name.id), *self._given(name.id)]
        if not found:
            raise _Unreadable(name)
        return found

    def _assigned(self, name: str) -> Iterator[ast.expr]:
        for node in ast.walk(self._function or self._tree):
            if isinstance(node, ast.For) and ast.unparse(node.target) == name:
                yield from getattr(node.iter, "elts", ())
            elif isinstance(node, ast.Assign):
                yield from self._bound(node.targets[0], node.value, name)

    def _bound(self, target: ast.expr, value: ast.expr, name: str) -> Iterator[ast.expr]:
        if ast.unparse(target) == name:
            yield value
        elif isinstance(target, ast.Tuple) and name in (
            names := list(map(ast.unparse, target.elts))
        ):
            entries = _entries(self._tree, getattr(value, "value", value))
            yield from (
                entry.elts[names.index(name)] for entry in entries if isinstance(entry, ast.Tuple)
            )

    def _given(self, name: str) -> Iterator[ast.expr]:
        """Yield what the module's calls of this function give it under a name."""
        if self._function is None:
            return
        names = [one.arg for one in self._function.args.args]
        if name in names:
            for caller, call in _calls_of(self._tree, self._function.name):
                yield from _Values(self._tree, caller)._simple(call.args[names.index(name)])


def _entries(tree: ast.Module, table: ast.expr) -> list[ast.expr]:
    """Return the values of a dictionary at the top of the module."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == ast.unparse(table):
            return list(getattr(node.value, "values", ()))
    raise _Unreadable(table)
