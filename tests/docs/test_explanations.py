"""The pages that explain name files and modules that exist, and no test that is gone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hermes_celery.session import Session

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/explanation").glob("*.md"))
_FILE = re.compile(r"`((?:tests|bench|proof|deploy|docs|hermes_celery)/[\w./-]+)`")
#: Files of the package that are named without its folder.
_IN_PACKAGE = re.compile(r"`((?:store|scheduling|running|delivering)/[\w./]+\.(?:py|lua))`")
_MODULE = re.compile(r"python -m ((?:tests|bench|docs)[\w.]*)")


def named_files(text: str) -> list[str]:
    """Every file and module that a page names, as a path below the root."""
    modules = [name.replace(".", "/") for name in _MODULE.findall(text)]
    return [
        *_FILE.findall(text),
        *(f"hermes_celery/{path}" for path in _IN_PACKAGE.findall(text)),
        *(name if (ROOT / name).is_dir() else f"{name}.py" for name in modules),
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = named_files(page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_each_promise_names_a_test() -> None:
    text = (ROOT / "docs/explanation/promise.md").read_text(encoding="utf-8")
    table = text.split("## When, then, shown by")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    assert [row for row in rows if not re.search(r"`tests/[\w./]+`", row)] == []


def test_a_page_that_names_a_file_which_is_gone_would_be_found() -> None:
    text = "see `tests/gone.py` and `store/lua/gone.lua`, or `python -m bench.gone`"
    assert named_files(text) == [
        "tests/gone.py",
        "hermes_celery/store/lua/gone.lua",
        "bench/gone.py",
    ]


def test_the_page_about_sessions_has_every_variable_of_a_session() -> None:
    text = (ROOT / "docs/explanation/session.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(HERMES_\w+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(Session().variables())
