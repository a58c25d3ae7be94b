"""The pages in `docs/reference/` agree with the code, and the check reports each that does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from docs.generate import __main__ as command
from docs.generate.pages import PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_reference_page_is_what_the_code_says(name: str) -> None:
    written = (command.REFERENCE / name).read_text(encoding="utf-8")
    assert written == PAGES[name](), "run `python -m docs.generate`"


def test_the_check_names_a_page_that_differs_and_one_that_is_missing(tmp_path: Path) -> None:
    command.write_pages(tmp_path)
    assert command.stale_pages(tmp_path) == []
    changed, gone = tmp_path / "job-fields.md", tmp_path / list(PAGES)[-1]
    gone.unlink()
    changed.write_text("# Job fields\n", encoding="utf-8")
    assert set(command.stale_pages(tmp_path)) == {changed.name, gone.name}


def test_the_command_exits_with_1_and_names_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["docs.generate", "--check"])
    assert command.main(tmp_path) == 1
    assert "docs/reference/job-fields.md differs from the code" in capsys.readouterr().err
    command.write_pages(tmp_path)
    assert command.main(tmp_path) == 0
