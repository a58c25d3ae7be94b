"""How messages repeat what was given, and how an exception is written down for a record."""

from __future__ import annotations

import pytest

from hermes_celery.errors import error_text, listed, shown


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no such day"), "ValueError: no such day"),
        (ValueError(), "ValueError"),
        (KeyError("day"), "KeyError: 'day'"),
    ],
)
def test_the_text_of_an_error_is_its_class_and_its_message(error: Exception, text: str) -> None:
    assert error_text(error) == text


class Given:
    """A value of a class whose description cannot be printed."""

    def __repr__(self) -> str:
        return "half \ud800\nof 'it' \\"


def test_a_given_value_is_shown_in_one_line_that_can_be_printed() -> None:
    assert shown(Given()) == "half \\ud800\\nof 'it' \\"
    assert shown({"\ud800": "é"}) == "{'\\ud800': 'é'}"


def test_given_names_are_listed_in_one_line_that_can_be_printed() -> None:
    assert listed(["a", "\ud800", "b\nc", 5, "é"]) == "a, \\ud800, b\\nc, 5, é"
    assert len(listed(["y" * 10_000])) < 150
