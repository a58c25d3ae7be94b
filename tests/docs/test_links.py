"""Links of documents that are no pages, and links of pages that leave the pages, lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from docs.generate.repository_links import on_page_markdown
from tests.docs.page import ROOT, anchors, links

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "bench/**/*.md", "proof/**/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "README.md" or path.parent != ROOT
)


def site(page: str, markdown: str) -> str:
    """Return the Markdown of a page as the site has it."""
    return on_page_markdown(
        markdown,
        page=SimpleNamespace(
            file=SimpleNamespace(abs_src_path=str(ROOT / "docs" / page), src_uri=page)
        ),
        config=SimpleNamespace(
            docs_dir=str(ROOT / "docs"), extra={"repository": "https://forge/us/it"}
        ),
    )


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in links(text):
        place, _, anchor = target.partition("#")
        if re.match(r"\w+:", place):
            continue
        found = path.parent / place if place else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text(encoding="utf-8")), target


def test_a_link_out_of_the_pages_leads_to_the_repository_on_the_site() -> None:
    text = "[a](../../deploy/compose.yaml), [b](../../bench#x), [c](../explanation/lease.md#y)"
    assert site("how-to/x.md", text) == (
        "[a](https://forge/us/it/blob/main/deploy/compose.yaml), "
        "[b](https://forge/us/it/tree/main/bench#x), [c](../explanation/lease.md#y)"
    )


def test_a_link_to_a_file_that_does_not_exist_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site("how-to/x.md", "[a](../../deploy/nothing.yaml)")
    assert "there is no ../../deploy/nothing.yaml" in caplog.text


def test_the_navigation_calls_each_page_by_its_heading() -> None:
    sections = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    entries: list[dict[str, str]] = []
    for section in sections:
        (content,) = section.values()
        entries += content if isinstance(content, list) else [section]
    called = {path: name for entry in entries for name, path in entry.items()}
    headings = {
        path: (ROOT / "docs" / path).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        for path in called
    }
    assert called.pop("index.md") == "Home"
    assert called == {path: headings[path] for path in called}
