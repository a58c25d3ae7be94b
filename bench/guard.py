"""Has the work become dearer? The costs that matter, each against a bare loop of the same run.

    python -m bench.guard             # exit code 1 if a ratio has grown by half
    python -m bench.guard --record    # take what is measured now as what is expected

What is compared is CPU time, ours and the server's, never the clock on the wall: other work on the
machine makes everything late, but hardly dearer. Each cost takes turns with a bare loop of the same
nature (`guarded.py`); of each side the cheapest third of the rounds counts, those that were
disturbed least, and the ratio of the two is held against the one in `guard.json`. A slow machine
slows both sides; what is left is what we do. How fast anything is, this does not say: that is
`bench.whole_path`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, median

import click
import msgspec

from bench.guarded import PAIRS, Cost, Pair

#: A cost that has grown by half has a cause.
LIMIT = 1.5
RECORD = Path(__file__).with_name("guard.json")
#: So often what is over its limit is measured once more: the machine may be to blame.
_AGAIN = 2
#: Ratios to be recorded are the middle ones of so many measurements.
_RECORDINGS = 5
_ROUNDS = 24
#: Under load fewer rounds have to do, but no fewer than that.
_FEWEST_ROUNDS = 9
_SECONDS = 6.0


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """How many times as dear as its bare loop something is."""

    name: str
    value: float


def fault_of(ratio: Ratio, recorded: Mapping[str, float]) -> str | None:
    """What is wrong with a ratio, and what to do; None when nothing is."""
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


def read_record() -> dict[str, float]:
    """The ratios that are expected, by name."""
    return msgspec.json.decode(RECORD.read_bytes(), type=dict[str, float])


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
    """The mean of the lowest third: steadier than the lowest, less moved by noise than the rest."""
    return mean(sorted(values)[: max(len(values) // 3, 1)])


def _in_turns(pair: Pair) -> Iterator[tuple[Cost, Cost]]:
    # The first round fills caches.
    pair.ours(), pair.bare()
    deadline = time.monotonic() + _SECONDS
    for number in range(_ROUNDS):
        if number >= _FEWEST_ROUNDS and time.monotonic() > deadline:
            return
        yield pair.ours(), pair.bare()


def _share_one_core() -> None:
    """Keep ourselves and the servers we start on one core.

    On two, each answer wakes a core that may or may not sleep, and each slows the other down if
    they are halves of one: noise of the size that is looked for here. macOS has no such call.
    """
    if sys.platform == "linux":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _faults(name: str, recorded: Mapping[str, float]) -> list[str]:
    """What is wrong with one pair, also when it is measured again."""
    faults: list[str] = []
    for again in range(_AGAIN + 1):
        if again:
            click.echo(f"{name} is over its limit: measured again ({again} of {_AGAIN})")
        ratios = measured(name)
        for ratio in ratios:
            click.echo(_line(ratio, recorded.get(ratio.name)))
        faults = [fault for ratio in ratios if (fault := fault_of(ratio, recorded))]
        if not faults:
            break
    return faults


def _line(ratio: Ratio, expected: float | None) -> str:
    line = f"{ratio.name:<28}{ratio.value:6.2f} times bare"
    if expected is None:
        return line
    cheap = ratio.value * LIMIT < expected
    hint = "  (cheaper by far: record it, or it may grow back unseen)" if cheap else ""
    return f"{line}   expected {expected:5.2f}   limit {LIMIT * expected:5.2f}{hint}"


def _record() -> None:
    found: dict[str, list[float]] = {}
    for _ in range(_RECORDINGS):
        for name in PAIRS:
            for ratio in measured(name):
                found.setdefault(ratio.name, []).append(ratio.value)
                click.echo(_line(ratio, None))
    middle = {name: round(median(values), 2) for name, values in found.items()}
    RECORD.write_text(json.dumps(middle, indent=2) + "\n")


@click.command()
@click.option("--record", is_flag=True, help="Take what is measured now as what is expected.")
def main(record: bool) -> None:
    """Fail when the cost of a tick, a claim or a next instant has grown by half."""
    _share_one_core()
    if record:
        _record()
        return
    recorded = read_record()
    faults = [fault for name in PAIRS for fault in _faults(name, recorded)]
    for fault in faults:
        click.echo(f"TOO DEAR  {fault}", err=True)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
