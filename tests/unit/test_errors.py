"""`error_text` writes an exception down for a record."""

from __future__ import annotations

import pytest

from hermes_celery.errors import error_text


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
