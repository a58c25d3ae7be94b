"""Text is fitted to the terminal's width: every cell is shown, and no line is too wide."""

from __future__ import annotations

import os
import pty
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_celery.cli.terminal import cells_of, one_line, printable, table_lines, wrapped

COLUMNS = ("RUN", "JOB", "STATE", "DUE", "WORKER", "SAID")
ROWS = [
    ["94eb33ef3945-20261130T163517.598Z-27ddd653", "bad", "failed", "2026-11-30 16:35",
     "hermes@host:21492", "Script exited with code 3 and a long story of what happened before"],
    ["07150e7c2588-20261130T163501.899Z", "hello", "succeeded", "2026-11-30 16:35", "-", "hi"],
]  # fmt: skip


def lines(width: int | None, *, spare: tuple[str, ...] = ()) -> list[str]:
    return [click.unstyle(line) for line in table_lines(COLUMNS, ROWS, width=width, spare=spare)]


def test_a_pipe_gets_one_line_for_each_row() -> None:
    heading, first, second = lines(None)
    assert heading.split() == list(COLUMNS)
    assert [first.index(cell) for cell in ROWS[0]] == [heading.index(name) for name in COLUMNS]
    assert second.endswith("  hi")


def test_columns_without_room_are_printed_below_their_row() -> None:
    assert lines(84, spare=("SAID", "WORKER")) == [
        "RUN                                         JOB    STATE      DUE",
        "    WORKER  SAID",
        "94eb33ef3945-20261130T163517.598Z-27ddd653  bad    failed     2026-11-30 16:35",
        "    hermes@host:21492  Script exited with code 3 and a long story of what happened",
        "    before",
        "07150e7c2588-20261130T163501.899Z           hello  succeeded  2026-11-30 16:35",
        "    -  hi",
    ]


@given(width=st.integers(20, 220))
def test_every_cell_is_shown_at_any_width_and_lines_fit(width: int) -> None:
    found = lines(width)
    shown = " ".join(" ".join(found).split())
    assert [cell for row in ROWS for cell in row if cell not in shown] == []
    assert max(map(len, found)) <= max(width, len(ROWS[0][0]))


def test_lines_break_between_words_but_not_inside_a_command() -> None:
    text = "no beat leads; start `celery -A shop beat -S hermes`, or one more worker"
    assert wrapped(text, width=40, first="fail  ", then="      ") == [
        "fail  no beat leads; start",
        "      `celery -A shop beat -S hermes`,",
        "      or one more worker",
    ]
    assert wrapped(text, width=None) == [text]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[2J gone \x07", "\\x1b[2J gone \\x07"),
        ("one\r\ntwo", "one\ntwo"),
        ("\udcff", "\N{REPLACEMENT CHARACTER}"),
        ("naïve 日本", "naïve 日本"),
    ],
)
def test_control_characters_in_foreign_text_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_wide_characters_take_two_columns_and_combining_marks_none() -> None:
    assert (cells_of("日本"), cells_of("e\N{COMBINING ACUTE ACCENT}"), cells_of("ab")) == (4, 1, 2)
    assert one_line("a\n\n b ") == "a / b"


def on_a_terminal(*arguments: str, columns: int, home: Path) -> str:
    """Run a command on a terminal of `columns` columns and return what it prints."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    program = subprocess.Popen(
        [sys.executable, "-m", "hermes_celery", *arguments],
        env={**environment, "HERMES_HOME": str(home)}, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = bytearray()
    try:
        while part := os.read(ours, 65_536):
            shown += part
    except OSError:
        pass  # Linux raises this when the other end is closed
    finally:
        os.close(ours)
        program.wait(60)
    return shown.decode().replace("\r\n", "\n")


def test_an_error_is_wrapped_to_the_terminals_width(tmp_path: Path) -> None:
    shown = on_a_terminal("next", "61 * * * *", columns=40, home=tmp_path)
    assert shown == (
        "Error: '61 * * * *': minute 61 is\noutside 0-59 (fields: minute hour day\nmonth weekday)\n"
    )


def test_no_color_turns_colors_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zones = ("explain", "30 2 * * *", "--tz", "UTC")
    assert "\x1b[1m" in on_a_terminal(*zones, columns=60, home=tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in on_a_terminal(*zones, columns=60, home=tmp_path)


def test_a_table_is_fitted_to_the_terminals_width(tmp_path: Path) -> None:
    zones = ("explain", "30 2 * * *", "--tz", "Asia/Tokyo", "--from", "2027-01-01T00:00Z")
    narrow = click.unstyle(on_a_terminal(*zones, columns=60, home=tmp_path))
    assert "\n    Next in your zone, " in narrow
    wide = click.unstyle(on_a_terminal(*zones, columns=90, home=tmp_path))
    assert "\nNext in the job's zone, Asia/Tokyo  Next in your zone, " in wide
