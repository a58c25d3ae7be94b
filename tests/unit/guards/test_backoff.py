"""Waits double from the first to the longest one; jitter decides half of each."""

from __future__ import annotations

import pytest

from hermes_celery.guards.backoff import backoff, backoff_since, jittered


def test_a_wait_doubles_with_each_failure_up_to_the_longest_one() -> None:
    waits = [backoff(failures, first=0.5, most=3) for failures in range(1, 6)]
    assert waits == [0.5, 1, 2, 3, 3]


def test_a_million_failures_wait_no_longer_than_the_longest_wait() -> None:
    assert backoff(1_000_000, first=1, most=60) == 60


@pytest.mark.parametrize("waits", range(1, 8))
def test_the_next_wait_follows_from_the_sum_of_all_waits(waits: int) -> None:
    waited = sum(backoff(failures, first=10, most=10_000) for failures in range(1, waits))
    assert backoff_since(int(waited), first=10, most=10_000) == 10 * 2 ** (waits - 1)


def test_after_a_clock_went_back_the_first_wait_is_used() -> None:
    assert backoff_since(-500, first=10, most=100) == 10
    assert backoff_since(500, first=10, most=100) == 100


def test_jitter_takes_up_to_half_of_a_wait() -> None:
    assert (jittered(10, 0), jittered(10, 0.5), jittered(10, 1)) == (5, 7.5, 10)
