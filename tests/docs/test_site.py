"""The site as MkDocs builds it: what its pages load, and what their copy buttons copy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from docs.generate.typed_lines import typed_lines
from docs.generate.whole_words import on_page_content
from tests.docs.page import INTERRUPT, ROOT, blocks, typed

PAGES = sorted((ROOT / "docs").rglob("*.md"))


def build(root: Path, place: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a repository, with the options of `make docs`."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (options,) = re.findall(r"/mkdocs build (.*)", makefile)
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", *options.split(), "--site-dir", str(place)],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    built = build(ROOT, place)
    assert built.returncode == 0, built.stderr
    return place


@pytest.mark.parametrize("link", ["explanation/gone.md", "tutorial.md#gone", "../deploy/gone.yaml"])
def test_a_link_that_leads_nowhere_ends_the_build(tmp_path: Path, link: str) -> None:
    root = tmp_path / "root"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "data", "hermes_celery", "site")
    shutil.copytree(ROOT, root, ignore=left_out)
    with (root / "docs" / "index.md").open("a", encoding="utf-8") as page:
        page.write(f"\nSee [this]({link}).\n")
    built = build(root, tmp_path / "site")
    assert built.returncode == 1
    (warning,) = [line for line in built.stderr.splitlines() if line.startswith("WARNING")]
    assert link.rpartition("#")[2] in warning


def html_of(site: Path, page: Path) -> str:
    name = page.relative_to(ROOT / "docs").with_suffix("")
    place = site if name.name == "index" else site / name
    return (place / "index.html").read_text(encoding="utf-8")


def loaded_by(html: str) -> list[str]:
    """Return the addresses of what a page loads by itself."""
    found = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?([^\s\"'>]+)", html)
    found += re.findall(r"<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?([^\s\"'>]+)", html)
    return found


def is_elsewhere(url: str) -> bool:
    return re.match(r"(?!data:)\w+:|//", url) is not None


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = loaded_by(page.read_text(encoding="utf-8"))
        assert loaded, page
        assert not [url for url in loaded if is_elsewhere(url)], page


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://x.example/y.js"></script>',
        "<script async src='//x.example/y.js'></script>",
        "<img alt=x src=https://x.example/y.svg>",
        '<link rel="stylesheet" href="https://x.example/y.css">',
    ],
)
def test_what_a_page_loads_from_elsewhere_is_found(html: str) -> None:
    assert [url for url in loaded_by(html) if is_elsewhere(url)] != []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_copy_button_of_a_console_block_copies_the_typed_lines_alone(
    site: Path, page: Path
) -> None:
    copied = [unescape(text) for text in re.findall(r' data-copy="([^"]*)"', html_of(site, page))]
    commands = [
        "\n".join(line.command for line in typed(block) if line.command != INTERRUPT)
        for block in blocks(page.read_text(encoding="utf-8"))
        if block.kind == "console"
    ]
    assert copied == [text for text in commands if text]


def test_a_continued_command_and_a_heredoc_are_copied_whole() -> None:
    text = "$ echo a \\\n  b\na b\n$ cat << END\n$ x\nEND\n$ x\n$ echo 'c\nd'\nc\nd\n"
    assert typed_lines(text) == ["echo a \\\n  b", "cat << END\n$ x\nEND", "x", "echo 'c\nd'"]


def test_every_picture_is_shown_on_a_page() -> None:
    shown = re.findall(
        r"!\[[^\]]{20,}\]\([./]*screens/([\w-]+\.svg)\)",
        "".join(page.read_text(encoding="utf-8") for page in PAGES),
    )
    assert set(shown) == {path.name for path in (ROOT / "docs" / "screens").glob("*.svg")}


@pytest.mark.parametrize(
    ("html", "marked"),
    [
        ("<p>a --deliver b</p>", "<p>a [--deliver] b</p>"),
        ("<p>from 2027-03-28T14:00, on</p>", "<p>from [2027-03-28T14:00], on</p>"),
        ("<p>well-known a--b</p>", "<p>well-known a--b</p>"),
        ("<code>add --on-lost retry</code>", "<code>add [--on-lost] retry</code>"),
        ("<pre><code>add --on-lost</code></pre>", "<pre><code>add --on-lost</code></pre>"),
        ("<code>?a=... -x</code>", "<code>[?a=...] [-x]</code>"),
        ("<code>x</code> --deliver", "<code>x</code> [--deliver]"),
        ('<a href="x--y">x</a>', '<a href="x--y">x</a>'),
        (f"<code>{'a-' * 30}</code>", f"<code>{'a-' * 30}</code>"),
        ("<code>/a:/b redis://c &P:/0</code>", "<code>/a:<wbr>/b redis://c &P:/0</code>"),
    ],
)
def test_a_word_with_a_hyphen_stays_whole(html: str, marked: str) -> None:
    wrapped = on_page_content(html)
    assert re.sub(r'<span class="whole">(.*?)</span>', r"[\1]", wrapped) == marked
