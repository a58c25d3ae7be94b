"""Runs a soak test with many faults for half a minute; `python -m bench.soak` runs it for hours."""

from __future__ import annotations

import pytest

from tests.proof.soak import Plan, run_round

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ("shards", "fsync"),
    [pytest.param(1, "everysec", marks=pytest.mark.slow), (8, "always")],
)
def test_nothing_is_lost_and_nothing_starts_twice_while_everything_breaks(
    shards: int, fsync: str
) -> None:
    plan = Plan(
        seconds=15,
        jobs=100,
        shards=shards,
        fault_seconds=0.6,
        deed_seconds=0.05,
        fsync=fsync,
        seed=1,
    )
    result = run_round(plan)
    print(result)
    assert result.valid, result.faults()
    assert result.verdict.targets > 500
    assert result.figures.kills > 0
    assert result.edits > 0
    assert result.delivered > 50
