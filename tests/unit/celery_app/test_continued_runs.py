"""`hop_of` reads from a message's header how often its run was handed on."""

from __future__ import annotations

from typing import Any

import pytest

from hermes_celery.celery_app.continued_runs import hop_of


@pytest.mark.parametrize("hop", [True, False, 0, -1, 1_000_000, 10**30, 1.0, "1", None, [1]])
def test_an_invalid_hop_counts_as_zero(hop: Any) -> None:
    found = hop_of({"hop": hop})
    assert (found, type(found)) == (0, int)


@pytest.mark.parametrize("hop", [1, 999_999])
def test_a_valid_hop_is_returned(hop: int) -> None:
    assert hop_of({"hop": hop}) == hop


@pytest.mark.parametrize("header", [None, "x", [], {}])
def test_a_header_without_a_hop_counts_as_zero(header: Any) -> None:
    assert hop_of(header) == 0
