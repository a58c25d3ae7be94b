"""Prints text as wide as the terminal: tables, and sentences behind a label.

A pipe has no width: there a table row is one line of any length, and nothing is wrapped. Text from
elsewhere (a name, an output, a message) is printed without its control characters, which could
move the cursor or change what is already shown.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import click

from hermes_celery.core.readable import readable
from hermes_celery.core.unknown_words import UNREADABLE

#: Rows that are aligned together. More would delay the first line until all rows are read.
_TABLE_ROWS = 1000
_GAP, _INDENT = "  ", " " * 4
#: Replaces a space that must not end a line, while lines are wrapped.
_HELD = "\N{NO-BREAK SPACE}"
_STATE_STYLES = {
    "succeeded": "green",
    "running": "cyan",
    "queued": "cyan",
    "sent": "blue",
    "failed": "red",
    "delivery_failed": "red",
    "timed_out": "red",
    "lost": "red",
    "cancelled": "yellow",
    "skipped": "yellow",
    "paused": "yellow",
    UNREADABLE: "red",
}


def print_tables(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Print rows as they come; repeat the headings before each thousand."""
    pages = _pages(iter(rows))
    print_table(columns, next(pages, ()), empty=empty)
    for page in pages:
        print_table(columns, page, empty=empty)


def _pages(rows: Iterator[Sequence[str]]) -> Iterator[list[Sequence[str]]]:
    while page := list(islice(rows, _TABLE_ROWS)):
        yield page


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str, spare: Sequence[str] = ()
) -> None:
    """Print rows under headings; print `empty` if there are none.

    Columns that do not fit the terminal are printed below each row: first those of `spare`, in
    their order, then the widest; never the first column.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if not cells:
        click.echo(empty)
        return
    for line in table_lines(columns, cells, width=terminal_width(), spare=spare):
        click.echo(line)


def table_lines(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None,
    spare: Sequence[str] = (),
) -> Iterator[str]:
    """Yield the lines of a table at most `width` wide, if possible; None: as wide as it is."""
    table = _layout(columns, rows, width=width, spare=spare)
    yield click.style(table.line(columns), bold=True)
    if table.below:
        yield click.style(_INDENT + _GAP.join(columns[index] for index in table.below), bold=True)
    for row in rows:
        yield table.line(row, colored=True)
        yield from table.lines_below(row, width=width or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """The place of each column of a table."""

    #: The columns printed in the row itself, and the width of each.
    beside: tuple[int, ...]
    widths: tuple[int, ...]
    #: The columns printed below the row.
    below: tuple[int, ...] = ()

    def line(self, row: Sequence[str], *, colored: bool = False) -> str:
        cells = []
        for index, width in zip(self.beside, self.widths, strict=True):
            text = one_line(row[index])
            padded = text + " " * (width - cells_of(text))
            style = _STATE_STYLES.get(row[index]) if colored else None
            cells.append(click.style(padded, fg=style) if style else padded)
        return _GAP.join(cells).rstrip()

    def lines_below(self, row: Sequence[str], *, width: int) -> Iterator[str]:
        text = _GAP.join(row[index] for index in self.below)
        for line in filter(None, map(str.strip, text.split("\n"))):
            yield from wrapped(line, width=width, first=_INDENT, then=_INDENT)


def _layout(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None,
    spare: Sequence[str],
) -> _Layout:
    natural = [
        max(cells_of(column), *(cells_of(one_line(row[index])) for row in rows))
        for index, column in enumerate(columns)
    ]
    beside = list(range(len(columns)))
    if width is None:
        return _Layout(beside=tuple(beside), widths=tuple(natural))
    widest = sorted(beside[1:], key=lambda index: (natural[index], index))
    leaving = [*map(columns.index, spare), *reversed(widest)]
    for index in dict.fromkeys(leaving):
        if _total(natural, beside) <= width:
            break
        beside.remove(index)
    below = [index for index in range(len(columns)) if index not in beside]
    return _Layout(
        beside=tuple(beside),
        widths=tuple(natural[index] for index in beside),
        below=tuple(below),
    )


def _total(widths: Sequence[int], beside: Sequence[int]) -> int:
    return sum(widths[index] for index in beside) + len(_GAP) * (len(beside) - 1)


def print_labelled(label: str, text: str, *, color: str | None = None) -> None:
    """Print a label and its text; further lines begin below the text."""
    begin = " " * cells_of(label)
    head, *rest = printable(text).split("\n")
    lines = wrapped(head, width=terminal_width(), first=label, then=begin)
    shown = click.style(label, fg=color) if color else label
    click.echo(shown + lines[0].removeprefix(label))
    for line in [*lines[1:], *(begin + line for line in rest)]:
        click.echo(line)


def print_note(text: str) -> None:
    """Print a sentence on stderr, so that stdout holds only the command's result."""
    for line in wrapped(printable(text), width=terminal_width(is_error=True)):
        click.echo(line, err=True)


def wrapped(text: str, *, width: int | None, first: str = "", then: str = "") -> list[str]:
    """Wrap one line to a width: between words, but never inside `a command`."""
    if width is None or cells_of(first + text) <= width:
        return [first + text]
    parts = text.split("`")
    parts[1::2] = [part.replace(" ", _HELD) for part in parts[1::2]]
    lines = textwrap.wrap(
        "`".join(parts),
        width=max(width, len(then) + 20),
        initial_indent=first,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_HELD, " ") for line in lines] or [first]


def terminal_width(*, is_error: bool = False) -> int | None:
    """Return the terminal's width in columns; None if the output is not a terminal."""
    stream = sys.stderr if is_error else sys.stdout
    return shutil.get_terminal_size().columns if stream.isatty() else None


def printable(text: str) -> str:
    """Return a text with its control characters escaped, except line ends."""
    if text.isprintable():
        return text
    return "".join(
        character if character == "\n" or unicodedata.category(character) != "Cc"
        else ascii(character)[1:-1]
        for character in readable(text).replace("\r\n", "\n").expandtabs()
    )  # fmt: skip


def one_line(text: str) -> str:
    """Join the lines of a text with " / "."""
    return " / ".join(filter(None, map(str.strip, text.split("\n")))) if "\n" in text else text


def cells_of(text: str) -> int:
    """Return how many terminal columns a text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def _cells(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
