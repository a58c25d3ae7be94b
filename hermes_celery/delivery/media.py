"""`MEDIA:<path>` lines: files that go along with a message.

A file is sent only from the caches that Hermes keeps under its home, or from the directories that
HERMES_MEDIA_ALLOW_DIRS names; links are resolved first. Hermes' own rule is wider (everything but a
list of forbidden places); output of agents can be steered by what they read, so this one is not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

_LINE = re.compile(r"^\s*MEDIA:\s*(?P<path>\S.*?)\s*$", re.MULTILINE)
_DIRECTIVE = re.compile(r"\[\[(?:audio_as_voice|as_document)\]\]")
_CACHES = (
    *(f"{kind}_cache" for kind in ("image", "audio", "video", "document")),
    "browser_screenshots",
    *(f"cache/{kind}" for kind in ("images", "audio", "videos", "documents", "screenshots")),
)
#: Together; more is refused by every platform.
_MAX_FILES = 10


class Extracted(msgspec.Struct, frozen=True, kw_only=True):
    """A text without its `MEDIA:` lines, and what became of them."""

    text: str
    files: tuple[Path, ...]
    #: One sentence for each file that is not sent.
    refused: tuple[str, ...]


def allowed_dirs(home: Path, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Where files may be sent from."""
    extra = environment.get("HERMES_MEDIA_ALLOW_DIRS", "")
    named = [Path(text).expanduser() for text in re.split(rf"[{os.pathsep},]", extra) if text]
    return tuple(path.resolve() for path in (*(home / name for name in _CACHES), *named))


def extract(text: str, *, allowed: tuple[Path, ...]) -> Extracted:
    """Take the `MEDIA:` lines out of a text and say which files may be sent."""
    files: list[Path] = []
    refused: list[str] = []
    for match in _LINE.finditer(text):
        given = match["path"].strip("`\"'")
        path, fault = _checked(given, allowed)
        if path is None:
            refused.append(f"attachment {given!r} was not sent: {fault}")
        elif path not in files:
            files.append(path)
    refused += [f"attachment {str(p)!r} was not sent: too many" for p in files[_MAX_FILES:]]
    rest = _DIRECTIVE.sub("", _LINE.sub("", text)) if files or refused else text
    return Extracted(text=rest.strip(), files=tuple(files[:_MAX_FILES]), refused=tuple(refused))


def _checked(given: str, allowed: tuple[Path, ...]) -> tuple[Path | None, str]:
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
