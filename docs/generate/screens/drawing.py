"""Draws what was printed in a terminal as an SVG, and reads the words of such a picture."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from html import unescape
from io import StringIO

from rich.console import Console
from rich.text import Text

from docs.generate.screens.scenes import Step
from docs.generate.screens.terminal import COLUMNS

#: The reader's own font: a picture loads nothing from elsewhere.
_FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace"
_RICHS_OWN = str(inspect.signature(Console.export_svg).parameters["code_format"].default)
_FORMAT = re.sub(r"(?s)    @font-face \{\{.*?\}\}\n", "", _RICHS_OWN).replace(
    "Fira Code, monospace", _FONT
)
_TEXT = re.compile(r"<text [^>]*>(.*?)</text>", re.DOTALL)
_MATRIX = re.compile(r'<g class="[\w-]+-matrix">(.*?)</g>', re.DOTALL)


def drawn(name: str, steps: Sequence[Step]) -> str:
    """Return the picture of a scene."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True)
    for step in steps:
        console.print(_folded(Text.assemble(("$ ", "bright_black"), (step.command, "bold"))))
        for line in step.printed.splitlines():
            console.print(_folded(Text.from_ansi(line)))
        console.print()
    svg = console.export_svg(title="hermes-celery", code_format=_FORMAT, unique_id=name)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def _folded(line: Text) -> Text:
    """Return a line as a terminal shows it, which ends it between any two characters."""
    return Text("\n").join(line.divide(range(COLUMNS, len(line), COLUMNS)))


def words_of(svg: str) -> list[str]:
    """Return the words of a picture; where its lines end is left out."""
    matrix = _MATRIX.search(svg)
    if matrix is None:
        raise ValueError("this is no picture of a terminal")
    return unescape(" ".join(_TEXT.findall(matrix[1]))).split()
