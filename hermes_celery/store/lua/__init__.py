"""The atomic steps, one Lua file each, and a small loader.

A line `--#include name` in a script is replaced by `name.lua`. Each file's header lists its KEYS,
its ARGV and every answer.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_INCLUDE = re.compile(r"^--#include (\w+)$", re.MULTILINE)


@cache
def source(name: str) -> str:
    """The text of one script, includes resolved."""
    text = files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda match: source(match.group(1)), text)
