"""Check that no cost has grown: each is compared with a bare loop in the same process.

    python -m bench.guard                    # exits with 1 if a ratio has grown by over a quarter
    python -m bench.guard --against before   # print the change since version 0.1.0, line by line
    python -m bench.guard --record           # store the measured ratios as the expected ones

The guard compares CPU time of the client and the server, not elapsed time: other work on the
machine delays both sides but hardly changes their CPU time. Each cost is measured in turns with a
bare loop of similar work (`guarded.py`), some hundred times. The cheapest tenth of each side
counts, since those turns were disturbed least. The ratio of the two is compared with the one in
`guard.json`. A slow machine slows both sides, so the ratio shows only changes of the code. For
speed see `bench.whole_path`.

`guard.json` holds two sets of ratios. `recorded` are the expected ones. `before` are those of
version 0.1.0, which never change; the work on robustness may add a tenth to them.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from statistics import mean, median

import click
import msgspec

from bench.guarded import PAIRS, Cost, Pair

#: A ratio may grow by a quarter; a larger growth is not noise.
LIMIT = 1.25
#: Highest growth since version 0.1.0 for `--against before`.
LIMIT_BEFORE = 1.1
RECORD = Path(__file__).with_name("guard.json")
#: Number of measurements of a cost that is over its limit; the median counts.
_MEASUREMENTS = 3
#: Number of measurements for `--record` and `--against before`; the median counts.
_RECORDINGS = 5
#: Time per pair, with at least `_FEWEST_ROUNDS` rounds on a busy machine.
_SECONDS = 5.0
_FEWEST_ROUNDS = 60


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `guard.json`: ratios by name."""

    #: Ratios of version 0.1.0, measured once.
    before: Mapping[str, float]
    #: Expected ratios.
    recorded: Mapping[str, float]


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of an operation as a multiple of its bare loop."""

    name: str
    value: float


def fault_of(ratio: Ratio, recorded: Mapping[str, float]) -> str | None:
    """Return an error text if a ratio is over its limit, or None.

    The limit is the recorded ratio plus a quarter; a ratio equal to it is accepted.
    """
    expected = recorded.get(ratio.name)
    if expected is None:
        return f"{ratio.name}: no ratio is on record; run `python -m bench.guard --record`"
    if ratio.value <= LIMIT * expected:
        return None
    return (
        f"{ratio.name}: {ratio.value:.2f} times its bare loop, expected {expected:.2f}, limit "
        f"{LIMIT * expected:.2f} ({LIMIT:g} x). Find out why; if the cost is intended, "
        "run `python -m bench.guard --record` and commit bench/guard.json"
    )


def read_record() -> Record:
    """Return the ratios in `guard.json`."""
    return msgspec.json.decode(RECORD.read_bytes(), type=Record)


def measured(name: str) -> list[Ratio]:
    """Measure one pair in turns; return a ratio of client CPU time, and one of the server's."""
    with PAIRS[name]() as pair:
        rounds = list(_in_turns(pair))
    ours, bare = ([costs[side] for costs in rounds] for side in (0, 1))
    client = _lowest_mean([cost.client for cost in ours]) / _lowest_mean(
        [cost.client for cost in bare]
    )
    ratios = [Ratio(name=f"{name}, client", value=client)]
    if bare[0].server:
        server = _lowest_mean([cost.server for cost in ours]) / _lowest_mean(
            [cost.server for cost in bare]
        )
        ratios.append(Ratio(name=f"{name}, server", value=server))
    return ratios


def _lowest_mean(values: Sequence[float]) -> float:
    """Return the mean of the lowest tenth, which varies less than the minimum or the median."""
    return mean(sorted(values)[: max(len(values) // 10, 1)])


def _in_turns(pair: Pair) -> Iterator[tuple[Cost, Cost]]:
    # Run once to fill caches.
    pair.ours(), pair.bare()
    # Freeze the objects that exist already, so that each collection in a round is short.
    gc.collect()
    gc.freeze()
    try:
        deadline = time.monotonic() + _SECONDS
        for number in count():
            if number >= _FEWEST_ROUNDS and time.monotonic() > deadline:
                return
            yield pair.ours(), pair.bare()
    finally:
        gc.unfreeze()


def _pin_to_one_core() -> None:
    """Pin this process and its servers to one core (Linux only; macOS has no such call).

    With two cores, each answer wakes a core that may be asleep, and hyper-threads of one core slow
    each other down. That noise is as large as the changes to be found.
    """
    if sys.platform == "linux":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def faults_in(
    measure: Callable[[], Sequence[Ratio]], recorded: Mapping[str, float]
) -> Iterator[str]:
    """Yield errors for ratios over their limit both at first and in the median of all."""
    first = _printed(measure(), recorded)
    if not any(fault_of(ratio, recorded) for ratio in first):
        return
    click.echo("over its limit: measuring again; the median counts")
    more = [_printed(measure(), recorded) for _ in range(_MEASUREMENTS - 1)]
    for ratio in _medians([first, *more]):
        fault = fault_of(ratio, recorded)
        if fault is not None:
            yield fault


def _printed(ratios: Sequence[Ratio], recorded: Mapping[str, float]) -> Sequence[Ratio]:
    for ratio in ratios:
        click.echo(_line(ratio, recorded.get(ratio.name)))
    return ratios


def _medians(measurements: Sequence[Sequence[Ratio]]) -> list[Ratio]:
    """Return the median ratio of each line."""
    return [
        Ratio(name=ratios[0].name, value=median(ratio.value for ratio in ratios))
        for ratios in zip(*measurements, strict=True)
    ]


def _line(ratio: Ratio, expected: float | None) -> str:
    line = f"{ratio.name:<28}{ratio.value:6.2f} times bare"
    if expected is None:
        return line
    cheap = ratio.value * LIMIT < expected
    hint = "  (much cheaper than expected: record it to notice later growth)" if cheap else ""
    return f"{line}   expected {expected:5.2f}   limit {LIMIT * expected:5.2f}{hint}"


def _medians_of_all() -> Iterator[Ratio]:
    """Yield the median ratio of every line over several measurements."""
    for name in PAIRS:
        yield from _medians([_printed(measured(name), {}) for _ in range(_RECORDINGS)])


def _record() -> None:
    record = read_record()
    recorded = {ratio.name: round(ratio.value, 3) for ratio in _medians_of_all()}
    record = msgspec.structs.replace(record, recorded=recorded)
    RECORD.write_text(json.dumps(msgspec.to_builtins(record), indent=2) + "\n")


def change_line(ratio: Ratio, before: Mapping[str, float]) -> str:
    """Return a line with the change since version 0.1.0, marked if it is too large."""
    was = before[ratio.name]
    line = f"{ratio.name:<28}{ratio.value:6.2f} times bare   before {was:5.2f}"
    change = ratio.value / was - 1
    return (
        f"{line}   {change:+7.1%}{'  TOO EXPENSIVE' if has_grown_too_much(ratio, before) else ''}"
    )


def has_grown_too_much(ratio: Ratio, before: Mapping[str, float]) -> bool:
    """Return whether a ratio has grown by more than a tenth since version 0.1.0."""
    return ratio.value > LIMIT_BEFORE * before[ratio.name]


def _compare(before: Mapping[str, float]) -> bool:
    """Print the change of every line; return whether all are within their limits."""
    ratios = list(_medians_of_all())
    click.echo("")
    for ratio in ratios:
        click.echo(change_line(ratio, before))
    return not any(has_grown_too_much(ratio, before) for ratio in ratios)


def _guard(recorded: Mapping[str, float]) -> bool:
    """Measure every pair; return whether all ratios are within their limits."""
    faults = [fault for name in PAIRS for fault in faults_in(partial(measured, name), recorded)]
    for fault in faults:
        click.echo(f"TOO EXPENSIVE  {fault}", err=True)
    return not faults


@click.command()
@click.option("--record", is_flag=True, help="Store the measured ratios as the expected ones.")
@click.option(
    "--against",
    type=click.Choice(["recorded", "before"]),
    default="recorded",
    show_default=True,
    help="Compare with the expected ratios, or with those of version 0.1.0.",
)
def main(record: bool, against: str) -> None:
    """Fail if the cost of a tick, a claim or a next instant has grown by more than a quarter."""
    _pin_to_one_core()
    if record:
        _record()
        return
    known = read_record()
    well = _compare(known.before) if against == "before" else _guard(known.recorded)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
