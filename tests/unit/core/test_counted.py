"""Tests how messages write a number of things."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import hermes_celery
from hermes_celery.core.counted import counted

#: A number and a noun in the plural, as in `{count} jobs`. Nouns that messages count.
_PLURAL = re.compile(
    r"\{}(?: more| other)? (?:jobs|runs|occurrences|entries|messages|letters|files|workers|beats|"
    r"deliveries|records|attempts|times|attachments|incidents|queues|tasks)\b"
)
#: Texts that are right as they are, and why.
_RIGHT = {
    "{} beats": "two beats or more",
    "matches {} jobs": "an ambiguous name",
    " ({} times since the last success)": "written from the second time on",
    "{} workers are called": "two workers or more",
    "{} times": "`once` stands for one",
    "{}: {} occurrences, {} to {}": "one occurrence has a text of its own",
    "has its {} runs stored": "the kind of the runs, not their number",
    "[... {} more messages: {}]": "two or more: the last piece makes room for this line",
    "lost {} of its last {} occurrences": "more than one is looked at",
    "may open {} files": "a limit of the system",
    "range {} runs backwards": "a verb",
}


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [
        (0, ("job",), "0 jobs"),
        (1, ("job",), "1 job"),
        (2, ("job",), "2 jobs"),
        (1234, ("job",), "1,234 jobs"),
        (1, ("entry", "entries"), "1 entry"),
        (2, ("entry", "entries"), "2 entries"),
        (1, ("message waits", "messages wait"), "1 message waits"),
    ],
)
def test_one_thing_is_written_in_the_singular(
    number: int, words: tuple[str, ...], text: str
) -> None:
    assert counted(number, *words) == text


def _texts(path: Path) -> list[str]:
    """Return the texts of a module that hold a value; the value is written `{}`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [
                part.value
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
                else _placeholder(part)
                for part in node.values
            ]
            found.append("".join(parts))
    return found


def _placeholder(part: ast.expr) -> str:
    """Return `{}`, or the name of a constant, whose value is known to be large."""
    value = part.value if isinstance(part, ast.FormattedValue) else None
    return value.id if isinstance(value, ast.Name) and value.id.isupper() else "{}"


def test_no_message_counts_one_thing_in_the_plural() -> None:
    root = Path(hermes_celery.__file__).parent
    found = [
        f"{path.relative_to(root)}: {text}"
        for path in sorted(root.rglob("*.py"))
        for text in _texts(path)
        if _PLURAL.search(text) and not any(part in text for part in _RIGHT)
    ]
    assert found == []
