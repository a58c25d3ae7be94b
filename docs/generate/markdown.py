"""The few pieces of Markdown that the pages are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

#: Inline code that holds a bar.
_BARRED = re.compile(r"`([^`]*\|[^`]*)`")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. Raises ValueError for a row with another number of cells than the head."""
    lines = [_line(head), "|" + "---|" * len(head)]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"{list(row)} has not the {len(head)} cells of {list(head)}")
        lines.append(_line([cell(text) for text in row]))
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Return Markdown as it stands in a table: on one line, and no bar of its own ends a cell.

    Readers differ about a bar inside of code in a table, escaped or not. All of them read HTML.
    """
    line = _BARRED.sub(lambda found: f"<code>{_entity(escape(found[1]))}</code>", text)
    return " ".join(line.split()).replace("|", "\\|")


def code(text: str) -> str:
    """Return text as code; "" stays empty."""
    if not text:
        return ""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def plain(text: str) -> str:
    """Return text in which no character has a meaning for Markdown."""
    return re.sub(r"([\\`*_<\[])", r"\\\1", text)


def codes(texts: Iterable[str]) -> str:
    """Return several texts as code, with commas between them."""
    return ", ".join(code(text) for text in texts)


def block(text: str, language: str = "") -> str:
    """Return text as a block of code."""
    return f"```{language}\n{text.rstrip()}\n```\n"


def _entity(text: str) -> str:
    return text.replace("|", "&#124;")


def _line(cells: Iterable[str]) -> str:
    return "|" + "|".join(f" {text} " if text else " " for text in cells) + "|"
