"""How an exception is written down in a record."""

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
def test_an_error_is_its_kind_and_what_it_says(error: Exception, text: str) -> None:
    assert error_text(error) == text
