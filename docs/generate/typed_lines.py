"""A hook of MkDocs: the copy button of a console block copies what is typed, not what is printed.

Material copies the text of the attribute `data-copy` where a block has one. The hook puts it on
each block in which a line begins with `$ `. A command goes on where a line ends with a backslash,
where a quotation mark is open, and to the end of a heredoc.
"""

from __future__ import annotations

import re
import shlex
from html import escape, unescape
from typing import Any

PROMPT = "$ "
_BLOCK = re.compile(r"(<pre><span></span><code)>(.*?)(?=</code></pre>)", re.DOTALL)
_TAG = re.compile(r"<[^>]+>")
_HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")


def on_page_content(html: str, **_: Any) -> str:
    """Return a page with the typed lines of each console block in an attribute of the block."""
    return _BLOCK.sub(_with_typed_lines, html)


def _with_typed_lines(block: re.Match[str]) -> str:
    commands = typed_lines(unescape(_TAG.sub("", block[2])))
    if not commands:
        return block[0]
    copied = "&#10;".join(escape(line) for line in "\n".join(commands).splitlines())
    return f'{block[1]} data-copy="{copied}">{block[2]}'


def typed_lines(text: str) -> list[str]:
    """Return the commands of a console block, without their prompts and their output."""
    commands = []
    lines = text.splitlines()
    while lines:
        line = lines.pop(0)
        if line.startswith(PROMPT):
            commands.append(whole_command(line.removeprefix(PROMPT), lines))
    return commands


def whole_command(first: str, lines: list[str]) -> str:
    """Take from `lines` what belongs to the command that begins with `first`."""
    command = first
    while lines and (command.endswith("\\") or _has_open_quote(command)):
        command += "\n" + lines.pop(0)
    heredoc = _HEREDOC.search(command)
    while heredoc and lines:
        line = lines.pop(0)
        command += "\n" + line
        if line == heredoc[2]:
            break
    return command


def _has_open_quote(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return True
    return False
