"""A hook of MkDocs: options, dates and words of code with a hyphen stay whole at a line's end.

A browser ends a line after any hyphen or question mark, so it would break `--deliver` after its
hyphens, and a date within. The hook wraps such words, and the style sheet keeps them whole. A list
of directories may break after each of its colons. Blocks of code scroll, and stay as they are.
"""

from __future__ import annotations

import re
from typing import Any

#: Longer words of code may break: a line on a phone has about forty characters.
LONGEST = 40
_PART = re.compile(r"(<pre\b.*?</pre>|<[^>]+>)", re.DOTALL)
_CODE = re.compile(rf"(?<!\S)(?=\S*[-?])\S{{1,{LONGEST}}}(?!\S)")
_DIRECTORIES = re.compile(r"(?<!\S)/\S+:/\S+")
_TEXT = re.compile(r"(?<![\w-])(?:--?[a-z][\w-]*|\d{4}-\d\d-\d\d(?:T[\d:+-]*\d)?)(?![\w-])")


def on_page_content(html: str, **_: Any) -> str:
    """Return a page with the words that must not break wrapped."""
    parts = []
    words = _TEXT
    for part in _PART.split(html):
        if part.startswith("<"):
            words = {"<code>": _CODE, "</code>": _TEXT}.get(part, words)
            parts.append(part)
        else:
            part = words.sub(r'<span class="whole">\g<0></span>', part)
            parts.append(_DIRECTORIES.sub(lambda found: found[0].replace(":", ":<wbr>"), part))
    return "".join(parts)
