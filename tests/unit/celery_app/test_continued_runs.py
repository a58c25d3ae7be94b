"""What a header says of the message that it came with."""

from __future__ import annotations

from typing import Any

import pytest

from hermes_celery.celery_app.continued_runs import hop_of


@pytest.mark.parametrize("hop", [True, False, 0, -1, 1_000_000, 10**30, 1.0, "1", None, [1]])
def test_what_is_no_count_of_ours_counts_as_none(hop: Any) -> None:
    found = hop_of({"hop": hop})
    assert (found, type(found)) == (0, int)


@pytest.mark.parametrize("hop", [1, 999_999])
def test_what_can_be_a_count_is_one(hop: int) -> None:
    assert hop_of({"hop": hop}) == hop


@pytest.mark.parametrize("header", [None, "x", [], {}])
def test_a_header_without_it_counts_as_none(header: Any) -> None:
    assert hop_of(header) == 0
