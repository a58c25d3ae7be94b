"""The README is short, its links and names exist, and each promise names its test.

`tests/docs` types its commands and compares what they print.
"""

from __future__ import annotations

import re

from tests.docs.page import ROOT, blocks, links

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short_and_shows_code_early() -> None:
    assert len(README.splitlines()) <= 150
    assert blocks(README)[0].line <= 20


def test_the_readme_names_the_test_command() -> None:
    assert "`make test`" in README


def test_the_readme_has_only_absolute_links() -> None:
    """The package index shows the README too, where a relative link leads nowhere."""
    assert [target for target in links(README) if not target.startswith("https://")] == []


def test_every_file_that_the_readme_names_exists() -> None:
    named = re.findall(r"`((?:tests|bench|proof|deploy|hermes_celery)/[\w./]+)`", README)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_promise_names_its_tests() -> None:
    rows = README.split("## Promises")[1].split("\n\n")[1].splitlines()[2:]
    assert len(rows) > 5
    assert [row for row in rows if "`tests/" not in row.split("|")[3]] == []
