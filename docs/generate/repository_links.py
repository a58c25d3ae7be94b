"""A hook of MkDocs: a link to a file outside of `docs/` leads to the repository.

In the pages such a link is relative, so that it works where the repository is read. The site has
no such file, so there the hook puts the file's address in the repository. It warns of a file that
does not exist, and a warning ends a strict build.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<=\]\()(\.\./[^)\s#]*)(?=[)#])")
_log = logging.getLogger("mkdocs.hooks.repository_links")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Return a page with the links that leave `docs/` replaced."""
    folder = Path(page.file.abs_src_path).parent
    root = Path(config.docs_dir).parent

    def replaced(link: re.Match[str]) -> str:
        target = (folder / link[1]).resolve()
        if target.is_relative_to(config.docs_dir) or not target.is_relative_to(root):
            return link[1]
        if not target.exists():
            _log.warning("%s: there is no %s", page.file.src_uri, link[1])
        kind = "tree" if target.is_dir() else "blob"
        return f"{config.extra['repository']}/{kind}/main/{target.relative_to(root).as_posix()}"

    return _LINK.sub(replaced, markdown)
