"""The benchmark guard's verdict on given ratios; `make guard` does the measuring."""

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
    """Return a function that returns these ratios, one per call."""
    left: Iterator[float] = iter(values)
    return lambda: [ratio(next(left))]


@pytest.mark.parametrize("value", [0.1, 2.0, 2.0 * LIMIT])
def test_a_ratio_within_its_limit_is_not_a_fault(value: float) -> None:
    assert fault_of(ratio(value), RECORDED) is None


def test_a_ratio_that_grew_by_more_than_a_quarter_is_a_fault_with_its_remedy() -> None:
    fault = fault_of(ratio(2.6), RECORDED)
    assert fault is not None
    assert fault.startswith("tick, client: 2.60 times its bare loop, expected 2.00, limit 2.50")
    assert "Find out why" in fault
    assert "python -m bench.guard --record" in fault
    assert "\n" not in fault


def test_a_ratio_that_is_not_on_record_is_a_fault() -> None:
    fault = fault_of(ratio(1.0, name="new, server"), RECORDED)
    assert fault is not None
    assert fault.startswith("new, server: no ratio is on record")


def test_one_measurement_over_the_limit_is_not_a_fault() -> None:
    assert list(faults_in(measurements(2.9, 2.1, 2.2), RECORDED)) == []


def test_a_ratio_over_its_limit_in_repeated_measurements_is_a_fault() -> None:
    (fault,) = faults_in(measurements(2.7, 2.2, 2.6), RECORDED)
    assert "2.60 times" in fault


def test_a_ratio_within_its_limit_is_measured_once() -> None:
    assert list(faults_in(measurements(2.4), RECORDED)) == []


@pytest.mark.parametrize(
    ("value", "change", "grew_too_much"), [(2.19, "+9.5%", False), (2.3, "+15.0%", True)]
)
def test_a_ratio_more_than_a_tenth_above_the_previous_one_is_marked(
    value: float, change: str, grew_too_much: bool
) -> None:
    line = change_line(ratio(value), RECORDED)
    assert change in line
    assert ("TOO EXPENSIVE" in line) is has_grown_too_much(ratio(value), RECORDED) is grew_too_much


def test_the_record_holds_the_ratios_of_all_pairs_and_no_others() -> None:
    record = read_record()
    assert set(record.before) == set(record.recorded)
    assert {name.rpartition(", ")[0] for name in record.recorded} == set(PAIRS)
