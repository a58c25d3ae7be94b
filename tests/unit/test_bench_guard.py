"""What the benchmarks' guard says of a ratio; what it measures is measured by `make guard`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from bench.guard import (
    LIMIT,
    Ratio,
    change_line,
    fault_of,
    faults_in,
    has_grown_too_much,
    read_record,
)
from bench.guarded import PAIRS

RECORDED = {"tick, client": 2.0}


def ratio(value: float, *, name: str = "tick, client") -> Ratio:
    return Ratio(name=name, value=value)


def measurements(*values: float) -> Callable[[], Sequence[Ratio]]:
    """Measures these, one after the other."""
    left: Iterator[float] = iter(values)
    return lambda: [ratio(next(left))]


@pytest.mark.parametrize("value", [0.1, 2.0, 2.0 * LIMIT])
def test_a_ratio_within_its_limit_is_no_fault(value: float) -> None:
    assert fault_of(ratio(value), RECORDED) is None


def test_a_ratio_that_grew_by_more_than_a_quarter_is_told_with_what_to_do() -> None:
    fault = fault_of(ratio(2.6), RECORDED)
    assert fault is not None
    assert fault.startswith("tick, client: 2.60 times its bare loop, expected 2.00, limit 2.50")
    assert "Find out why" in fault
    assert "python -m bench.guard --record" in fault
    assert "\n" not in fault


def test_a_ratio_that_nobody_recorded_is_a_fault() -> None:
    fault = fault_of(ratio(1.0, name="new, server"), RECORDED)
    assert fault is not None
    assert fault.startswith("new, server: no ratio is on record")


def test_one_measurement_that_was_disturbed_is_no_fault() -> None:
    assert list(faults_in(measurements(2.9, 2.1, 2.2), RECORDED)) == []


def test_a_cost_that_is_over_its_limit_again_is_a_fault() -> None:
    (fault,) = faults_in(measurements(2.7, 2.2, 2.6), RECORDED)
    assert "2.60 times" in fault


def test_a_cost_within_its_limit_is_measured_once() -> None:
    assert list(faults_in(measurements(2.4), RECORDED)) == []


@pytest.mark.parametrize(
    ("value", "change", "too_dear"), [(2.19, "+9.5%", False), (2.3, "+15.0%", True)]
)
def test_what_is_more_than_a_tenth_dearer_than_before_is_said(
    value: float, change: str, too_dear: bool
) -> None:
    line = change_line(ratio(value), RECORDED)
    assert change in line
    assert ("TOO EXPENSIVE" in line) is has_grown_too_much(ratio(value), RECORDED) is too_dear


def test_every_pair_has_its_ratios_on_record_and_no_other_has() -> None:
    record = read_record()
    assert set(record.before) == set(record.recorded)
    assert {name.rpartition(", ")[0] for name in record.recorded} == set(PAIRS)
