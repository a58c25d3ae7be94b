"""What the benchmarks' guard says of a ratio; what it measures is measured by `make guard`."""

from __future__ import annotations

import pytest

from bench.guard import LIMIT, Ratio, fault_of, read_record
from bench.guarded import PAIRS

RECORDED = {"tick, client": 2.0}


def ratio(value: float, *, name: str = "tick, client") -> Ratio:
    return Ratio(name=name, value=value)


@pytest.mark.parametrize("value", [0.1, 2.0, 2.0 * LIMIT])
def test_a_ratio_within_its_limit_is_no_fault(value: float) -> None:
    assert fault_of(ratio(value), RECORDED) is None


def test_a_ratio_that_grew_by_more_than_half_is_told_with_what_to_do() -> None:
    fault = fault_of(ratio(3.1), RECORDED)
    assert fault is not None
    assert fault.startswith("tick, client: 3.10 times its bare loop, expected 2.00, limit 3.00")
    assert "Find what made it dearer" in fault
    assert "python -m bench.guard --record" in fault
    assert "\n" not in fault


def test_a_ratio_that_nobody_recorded_is_a_fault() -> None:
    fault = fault_of(ratio(1.0, name="new, server"), RECORDED)
    assert fault is not None
    assert fault.startswith("new, server: no ratio is on record")


def test_every_pair_has_its_ratios_on_record_and_no_other_has() -> None:
    assert {name.rpartition(", ")[0] for name in read_record()} == set(PAIRS)
