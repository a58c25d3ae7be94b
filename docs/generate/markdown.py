"""The few pieces of Markdown that the pages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; each row has as many cells as the head."""
    lines = [_line(head), "|" + "---|" * len(head)]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"{list(row)} has not the {len(head)} cells of {list(head)}")
        lines.append(_line([cell(text) for text in row]))
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Return text as it stands in a table: on one line, its bars escaped."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """Return text as code; "" stays empty."""
    if not text:
        return ""
    fence = "``" if "`" in text else "`"
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def codes(texts: Iterable[str]) -> str:
    """Return several texts as code, with commas between them."""
    return ", ".join(code(text) for text in texts)


def _line(cells: Iterable[str]) -> str:
    return "|" + "|".join(f" {text} " if text else " " for text in cells) + "|"
