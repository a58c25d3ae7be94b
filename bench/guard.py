"""Has the work become dearer? The costs that matter, each against a bare loop of the same run.

    python -m bench.guard                    # exit code 1 if a ratio has grown by a quarter
    python -m bench.guard --against before   # how much dearer than before, line by line
    python -m bench.guard --record           # take what is measured now as what is expected

What is compared is CPU time, ours and the server's, never the clock on the wall: other work on the
machine makes everything late, but hardly dearer. Each cost takes turns with a bare loop of the same
nature (`guarded.py`), some hundred times; of each side the cheapest tenth counts, the turns that
were disturbed least, and the ratio of the two is held against the one in `guard.json`. A slow
machine slows both sides; what is left is what we do. How fast anything is, this does not say: that
is `bench.whole_path`.

`guard.json` holds two sets of ratios: `recorded` is what is expected now; `before` stays as it is:
it is what version 0.1.0 cost, and the work on robustness may add a tenth to it.
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

#: A cost that has grown by a quarter has a cause.
LIMIT = 1.25
#: What may be dearer than before, at most.
LIMIT_BEFORE = 1.1
RECORD = Path(__file__).with_name("guard.json")
#: What is over its limit is measured so often in all, and its middle ratio counts.
_MEASUREMENTS = 3
#: Ratios to be recorded, and those held against `before`, are the middle ones of so many.
_RECORDINGS = 5
#: A pair takes turns for so long, but so often at least, however busy the machine is.
_SECONDS = 5.0
_FEWEST_ROUNDS = 60


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What `guard.json` holds: ratios by name."""

    #: Of version 0.1.0; measured once, and never again.
    before: Mapping[str, float]
    #: What is expected now.
    recorded: Mapping[str, float]


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """How many times as dear as its bare loop something is."""

    name: str
    value: float


def fault_of(ratio: Ratio, recorded: Mapping[str, float]) -> str | None:
    """What is wrong with a ratio, and what to do; None when nothing is.

    A ratio at its limit is none: the limit is a quarter more than what is on record.
    """
    expected = recorded.get(ratio.name)
    if expected is None:
        return f"{ratio.name}: no ratio is on record; run `python -m bench.guard --record`"
    if ratio.value <= LIMIT * expected:
        return None
    return (
        f"{ratio.name}: {ratio.value:.2f} times its bare loop, expected {expected:.2f}, limit "
        f"{LIMIT * expected:.2f} ({LIMIT:g} x). Find what made it dearer; if the cost is meant, "
        "run `python -m bench.guard --record` and commit bench/guard.json"
    )


def read_record() -> Record:
    """The ratios on record."""
    return msgspec.json.decode(RECORD.read_bytes(), type=Record)


def measured(name: str) -> list[Ratio]:
    """Measure one pair in turns; a ratio for our CPU time, one for the server's if it has any."""
    with PAIRS[name]() as pair:
        rounds = list(_in_turns(pair))
    ours, bare = ([costs[side] for costs in rounds] for side in (0, 1))
    client = _low([cost.client for cost in ours]) / _low([cost.client for cost in bare])
    ratios = [Ratio(name=f"{name}, client", value=client)]
    if bare[0].server:
        server = _low([cost.server for cost in ours]) / _low([cost.server for cost in bare])
        ratios.append(Ratio(name=f"{name}, server", value=server))
    return ratios


def _low(values: Sequence[float]) -> float:
    """The mean of the lowest tenth: steadier than the lowest, less moved by noise than the rest."""
    return mean(sorted(values)[: max(len(values) // 10, 1)])


def _in_turns(pair: Pair) -> Iterator[tuple[Cost, Cost]]:
    # The first round fills caches.
    pair.ours(), pair.bare()
    # What lives by now is no garbage of the rounds: without it each collects in no time.
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


def _share_one_core() -> None:
    """Keep ourselves and the servers we start on one core.

    On two, each answer wakes a core that may or may not sleep, and each slows the other down if
    they are halves of one: noise of the size that is looked for here. macOS has no such call.
    """
    if sys.platform == "linux":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def faults_in(
    measure: Callable[[], Sequence[Ratio]], recorded: Mapping[str, float]
) -> Iterator[str]:
    """What is wrong with one pair: what is over its limit at first and in the middle, too."""
    first = _told(measure(), recorded)
    if not any(fault_of(ratio, recorded) for ratio in first):
        return
    click.echo("over its limit: measured again, and the middle ratio counts")
    more = [_told(measure(), recorded) for _ in range(_MEASUREMENTS - 1)]
    for ratio in _middle([first, *more]):
        fault = fault_of(ratio, recorded)
        if fault is not None:
            yield fault


def _told(ratios: Sequence[Ratio], recorded: Mapping[str, float]) -> Sequence[Ratio]:
    for ratio in ratios:
        click.echo(_line(ratio, recorded.get(ratio.name)))
    return ratios


def _middle(measurements: Sequence[Sequence[Ratio]]) -> list[Ratio]:
    """For each line its middle ratio."""
    return [
        Ratio(name=ratios[0].name, value=median(ratio.value for ratio in ratios))
        for ratios in zip(*measurements, strict=True)
    ]


def _line(ratio: Ratio, expected: float | None) -> str:
    line = f"{ratio.name:<28}{ratio.value:6.2f} times bare"
    if expected is None:
        return line
    cheap = ratio.value * LIMIT < expected
    hint = "  (cheaper by far: record it, or it may grow back unseen)" if cheap else ""
    return f"{line}   expected {expected:5.2f}   limit {LIMIT * expected:5.2f}{hint}"


def _middle_of_all() -> Iterator[Ratio]:
    """Every line, measured several times."""
    for name in PAIRS:
        yield from _middle([_told(measured(name), {}) for _ in range(_RECORDINGS)])


def _record() -> None:
    record = read_record()
    recorded = {ratio.name: round(ratio.value, 3) for ratio in _middle_of_all()}
    record = msgspec.structs.replace(record, recorded=recorded)
    RECORD.write_text(json.dumps(msgspec.to_builtins(record), indent=2) + "\n")


def change_line(ratio: Ratio, before: Mapping[str, float]) -> str:
    """How much dearer a line is than before, and whether that is too much."""
    was = before[ratio.name]
    line = f"{ratio.name:<28}{ratio.value:6.2f} times bare   before {was:5.2f}"
    change = ratio.value / was - 1
    return f"{line}   {change:+7.1%}{'  TOO DEAR' if is_too_dear(ratio, before) else ''}"


def is_too_dear(ratio: Ratio, before: Mapping[str, float]) -> bool:
    """Whether a line costs more than a tenth more than before."""
    return ratio.value > LIMIT_BEFORE * before[ratio.name]


def _compare(before: Mapping[str, float]) -> bool:
    """Print the change of every line; whether none is too dear."""
    ratios = list(_middle_of_all())
    click.echo("")
    for ratio in ratios:
        click.echo(change_line(ratio, before))
    return not any(is_too_dear(ratio, before) for ratio in ratios)


def _guard(recorded: Mapping[str, float]) -> bool:
    """Measure every pair; whether nothing is over its limit."""
    faults = [fault for name in PAIRS for fault in faults_in(partial(measured, name), recorded)]
    for fault in faults:
        click.echo(f"TOO DEAR  {fault}", err=True)
    return not faults


@click.command()
@click.option("--record", is_flag=True, help="Take what is measured now as what is expected.")
@click.option(
    "--against",
    type=click.Choice(["recorded", "before"]),
    default="recorded",
    show_default=True,
    help="What to compare with: what is expected now, or what version 0.1.0 cost.",
)
def main(record: bool, against: str) -> None:
    """Fail when the cost of a tick, a claim or a next instant has grown by a quarter."""
    _share_one_core()
    if record:
        _record()
        return
    known = read_record()
    well = _compare(known.before) if against == "before" else _guard(known.recorded)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
