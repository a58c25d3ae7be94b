"""Read a page: which blocks it has, what a reader types, and what the page says is printed.

These blocks have a meaning; `test_pages.py` does what they say, in the order of the page:

- ```console: lines after `$ ` are typed. A command goes on where a line ends with a backslash,
  where a quotation mark is open, and to the end of a heredoc. The lines below are its output;
  `...` alone stands for any lines there, and `…` for any text within a line. A command with no
  output below it, or with `...` only, must succeed. A line `^C` is Ctrl-C
  for the process that was started last and still runs.
- ```python, ```toml, ```ini, ```yaml whose first line is `# shop.py`: that file. With a first line
  `# shop.py, at the end` the block is added to it. Any other Python block is compiled, and what
  it imports from hermes_celery must exist. Any other block of these is parsed, as ```json is.

A comment directly above a console block changes how it is followed:

- `<!-- not run: needs Docker -->`: nothing is typed. Its options are parsed, and the files of this
  repository that it names exist.
- `<!-- stays -->`: its command does not end, and the reader goes on in another terminal. The
  known ones (`up`, a worker, a beat, `logs -f` ...) need no comment.

What a page presupposes (a server that is up, a job called nightly) is typed before what follows:

    <!-- given:
    $ hermes-celery up
    $ hermes-celery add "0 2 * * *" --script nightly.sh --no-agent --name nightly
    -->

Where the text asks to begin each terminal with a line, a comment repeats that for the test:

    <!-- each terminal: export HERMES_HOME=$PWD/.demo -->
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from docs.generate.typed_lines import PROMPT, whole_command

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<kind>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```", re.S | re.M
)
_GIVEN = re.compile(r"^<!-- given:\n(?P<text>.*?)^-->", re.DOTALL | re.MULTILINE)
_EACH = re.compile(r"^<!-- each terminal: (?P<text>.*?) -->$", re.MULTILINE)
_COMMENT = re.compile(r"<!--\s*(not run|stays)(?::\s*((?:(?!-->).)*?))?\s*-->\s*\Z", re.S)
#: The first line of a block that is a file.
FILE = re.compile(
    r"# (?P<name>[\w./-]+\.(?:py|toml|ini|cfg|ya?ml|conf|env))(?P<add>, at the end)?:?$"
)
INTERRUPT = "^C"
#: The kind of a comment with commands that a page presupposes.
GIVEN = "given"
#: The kind of a comment with the line that each later terminal begins with.
EACH = "each terminal"


class Typed(msgspec.Struct, frozen=True, kw_only=True):
    """One command, or Ctrl-C, and the lines that the page shows below it."""

    command: str
    output: tuple[str, ...]


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """A fenced block."""

    kind: str
    text: str
    #: The number of its first line.
    line: int
    #: `not run`, `stays`, or "".
    mark: str
    #: Why it is not run.
    reason: str

    @property
    def is_run(self) -> bool:
        """Whether its commands are typed by the test."""
        return self.kind in {"console", GIVEN} and self.mark != "not run"


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page in their order."""
    found = [
        Block(kind=kind, text=match["text"], line=_line(text, match), mark="", reason="")
        for kind, pattern in ((GIVEN, _GIVEN), (EACH, _EACH))
        for match in pattern.finditer(text)
    ]
    for match in _FENCE.finditer(text):
        comment = _COMMENT.search(text[: match.start()].rstrip())
        lines = [line.removeprefix(match["indent"]) for line in match["text"].splitlines()]
        found.append(
            Block(
                kind=match["kind"],
                text="\n".join(lines) + "\n",
                line=_line(text, match),
                mark=comment[1] if comment else "",
                reason=" ".join((comment[2] or "").split()) if comment else "",
            )
        )
    return sorted(found, key=lambda block: block.line)


def _line(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1


def typed(block: Block) -> list[Typed]:
    """Return the commands of a console block. Raises ValueError for output that has no command."""
    found: list[Typed] = []
    lines = block.text.splitlines()
    while lines:
        line = lines.pop(0)
        if line.startswith(PROMPT):
            found.append(Typed(command=whole_command(line.removeprefix(PROMPT), lines), output=()))
        elif line == INTERRUPT:
            found.append(Typed(command=INTERRUPT, output=()))
        elif found:
            found[-1] = msgspec.structs.replace(found[-1], output=(*found[-1].output, line))
        else:
            raise ValueError(f"line {block.line + 1}: neither `$ ` nor ^C comes before {line!r}")
    return found


def links(text: str) -> list[str]:
    """Return the targets of a page's links, without those in code."""
    plain = re.sub(r"`[^`]*`", "", _FENCE.sub("", text))
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"\s+", " ", plain).replace("](", " ]("))


def anchors(text: str) -> set[str]:
    """Return the names of a page's headings in links."""
    return {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in _FENCE.sub("", text).splitlines()
        if line.startswith("#")
    }
