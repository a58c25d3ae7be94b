"""The pictures in `docs/screens/` show what the commands print now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate.screens.__main__ import SCREENS
from docs.generate.screens.drawing import drawn, words_of
from docs.generate.screens.masks import HOME, Masks
from docs.generate.screens.scenes import Step, played

REMEDY = "the commands print something else now: run `make screens`, and look at the pictures"


@pytest.mark.pages
@pytest.mark.system
def test_each_picture_shows_what_its_commands_print_now() -> None:
    scenes = played()
    assert {path.stem for path in SCREENS.glob("*.svg")} == set(scenes)
    for name, steps in scenes.items():
        shown = words_of((SCREENS / f"{name}.svg").read_text(encoding="utf-8"))
        assert shown == words_of(drawn(name, steps)), f"{name}.svg: {REMEDY}"


@pytest.mark.parametrize("path", sorted(SCREENS.glob("*.svg")), ids=lambda path: path.stem)
def test_a_picture_loads_nothing_from_elsewhere(path: Path) -> None:
    svg = path.read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import|href=|<script", svg)


def test_words_are_read_in_order_whatever_their_colour_and_line() -> None:
    step = Step("hermes-celery list", "\x1b[31mfailed\x1b[0m 'a < b'\n" + "x " * 60 + "\n")
    assert words_of(drawn("some", [step])) == [
        *("$", "hermes-celery", "list", "failed", "'a", "<", "b'"),
        *("x" * 60),
    ]


def test_values_that_differ_from_run_to_run_are_masked_and_the_rest_stays() -> None:
    first, second = Masks(home="/tmp/a1b2"), Masks(home="/tmp/c3d4")
    texts = [
        masks.masked(
            f"{job}-20270301T{time}.123Z-{suffix} in {home}, next run 2027-03-01 {clock}, "
            "Sun 2027-03-28 03:00:00+02:00\n"
        )
        for masks, job, time, suffix, home, clock in (
            (first, "0123456789ab", "080000", "deadbeef", "/tmp/a1b2", "09:00:00"),
            (second, "ba9876543210", "101112", "00c0ffee", "/tmp/c3d4", "11:12:13"),
        )
    ]
    assert texts[0] == texts[1]
    assert f"in {HOME}, next run 2027-01-04 08:15:00, Sun 2027-03-28 03:00:00+02:00" in texts[0]
