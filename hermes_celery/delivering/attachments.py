"""Read `MEDIA:<path>` lines: files to send along with a message.

A file is sent only from the caches under the Hermes home, or from the directories named in
HERMES_MEDIA_ALLOW_DIRS. Links are resolved first. Hermes' own rule is wider: it allows every path
except a list of forbidden ones. This rule is narrower because what an agent reads can steer what it
writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from hermes_celery.core.counted import counted

_MARK = "MEDIA:"
_NOT_BLANK = re.compile(r"\S")
_DIRECTIVE = re.compile(r"\[\[(?:audio_as_voice|as_document)\]\]")
_CACHES = (
    *(f"{kind}_cache" for kind in ("image", "audio", "video", "document")),
    "browser_screenshots",
    *(f"cache/{kind}" for kind in ("images", "audio", "videos", "documents", "screenshots")),
)
#: The most files of one message; every platform refuses more.
_MAX_FILES = 10
#: Lines beyond this number are removed without checking the disk.
_MAX_LINES = 200
#: Linux's PATH_MAX; resolving a longer path takes time and finds nothing.
_MAX_PATH = 4096


class ExtractedFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A text without its `MEDIA:` lines, with the files to send and the refused ones."""

    text: str
    files: tuple[Path, ...]
    #: One sentence for each file that is not sent.
    refused: tuple[str, ...]


def allowed_dirs(home: Path, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the directories that files may be sent from."""
    extra = environment.get("HERMES_MEDIA_ALLOW_DIRS", "")
    named = [
        Path(os.path.expanduser(text)) for text in re.split(rf"[{os.pathsep},]", extra) if text
    ]
    # `Path` methods raise for a loop of links and for an unknown user; these functions do not.
    return tuple(
        Path(os.path.realpath(path)) for path in (*(home / name for name in _CACHES), *named)
    )


def extract(text: str, *, allowed: tuple[Path, ...]) -> ExtractedFiles:
    """Remove the `MEDIA:` lines from a text and return which files may be sent."""
    lines = list(_lines(text))
    files: list[Path] = []
    refused: list[str] = []
    for line in lines[:_MAX_LINES]:
        given = line.path.strip("`\"'")
        path, fault = _checked(given, allowed)
        if path is None:
            refused.append(f"attachment {_shown(given)!r} was not sent: {fault}")
        elif path not in files:
            files.append(path)
    refused += [f"attachment {str(p)!r} was not sent: too many" for p in files[_MAX_FILES:]]
    if len(lines) > _MAX_LINES:
        more = counted(len(lines) - _MAX_LINES, "more attachment was", "more attachments were")
        refused.append(f"{more} not sent: too many")
    rest = _DIRECTIVE.sub("", _without(text, lines)) if lines else text
    return ExtractedFiles(
        text=rest.strip(), files=tuple(files[:_MAX_FILES]), refused=tuple(refused)
    )


class _Line(msgspec.Struct, frozen=True):
    """A `MEDIA:` line, including the blank lines around it."""

    start: int
    end: int
    path: str


def _lines(text: str) -> Iterator[_Line]:
    r"""Yield what `^\s*MEDIA:\s*(\S.*?)\s*$` matches, line by line, in linear time.

    The pattern itself is quadratic: it tries each blank line before a mark as a start.
    """
    position = 0
    mark = text.find(_MARK)
    while mark >= 0:
        start = _start_of(text, position, mark)
        found = None if start is None else _line_at(text, start, mark)
        if found is not None:
            yield found
            position = found.end
        else:
            # The rest of this line cannot contain another start.
            position = text.find("\n", mark)
        mark = text.find(_MARK, position) if position >= 0 else -1


def _start_of(text: str, position: int, mark: int) -> int | None:
    """Return the start of the blanks before a mark, at `position` or later.

    Returns None if text stands before the mark in its line.
    """
    blank = position + len(text[position:mark].rstrip())
    if blank == position and (position == 0 or text[position - 1] == "\n"):
        return position
    newline = text.find("\n", blank, mark)
    return newline + 1 if newline >= 0 else None


def _line_at(text: str, start: int, mark: int) -> _Line | None:
    path = _NOT_BLANK.search(text, mark + len(_MARK))
    if path is None:
        return None
    newline = text.find("\n", path.start())
    line = text[path.start() : newline if newline >= 0 else len(text)].rstrip()
    after = _NOT_BLANK.search(text, path.start() + len(line))
    end = len(text) if after is None else text.rfind("\n", newline, after.start())
    return _Line(start, end, line)


def _without(text: str, lines: Sequence[_Line]) -> str:
    starts = [*(line.start for line in lines), len(text)]
    ends = [0, *(line.end for line in lines)]
    return "".join(text[end:start] for end, start in zip(ends, starts, strict=True))


def _shown(given: str) -> str:
    return given if len(given) <= _MAX_PATH else given[:_MAX_PATH] + "..."


def _checked(given: str, allowed: tuple[Path, ...]) -> tuple[Path | None, str]:
    if len(given) > _MAX_PATH:
        return None, "its path is too long"
    try:
        path = Path(given).expanduser()
        if not path.is_absolute():
            return None, "its path is not absolute"
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        return None, "there is no such file on the machine that delivers"
    if not any(resolved.is_relative_to(root) for root in allowed):
        return None, "its directory is not allowed (HERMES_MEDIA_ALLOW_DIRS names more)"
    return (resolved, "") if resolved.is_file() else (None, "it is not a file")
