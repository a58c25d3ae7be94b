"""Run all benchmarks and print the figures of docs/explanation/numbers.md: `make bench`.

    python -m bench [--quick] [--keep DIRECTORY]

Each part is a command of its own that prints its own tables and writes its figures for the summary
to a JSON file. The whole takes about an hour, mostly for the peers. `--quick` takes ten minutes,
with fewer jobs and rounds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from bench.show import new_table, stop_in_order

_OURS = "hermes-celery"

#: Part -> its options without `--quick`, and its options with `--quick`.
_PARTS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "peers": (
        (),
        ("--jobs", "100", "--jobs", "1000", "--rounds", "1", "--limit-seconds", "20"),
    ),
    "sustained": ((), ("--jobs", "20000", "--rounds", "1")),
    "lag": (
        ("--stored", "1000", "--stored", "1000000"),
        ("--stored", "1000", "--seconds", "5", "--burst", "300"),
    ),
    "million": (
        ("--stored", "10", "--stored", "10000", "--stored", "1000000"),
        ("--stored", "1000", "--imported", "5000"),
    ),
    "whole_path": (
        ("--jobs", "100", "--jobs", "1000", "--stored", "100", "--stored", "10000",
         "--stored", "1000000"),
        ("--jobs", "300", "--rounds", "1", "--stored", "1000"),
    ),
    "messages": ((), ()),
    "pools": ((), ("--rounds", "1", "--runs", "100")),
    "next_instant": ((), ()),
}  # fmt: skip
#: Parts that only print tables and write no JSON file.
_SILENT = ("whole_path", "messages", "next_instant")


@click.command(help=__doc__)
@click.option(
    "--quick", is_flag=True, help="Measure fewer jobs and rounds; do not quote these figures."
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the JSON files in this directory.",
)
def main(quick: bool, keep: Path | None) -> None:
    """Run every part, then print the summary. A part that fails does not stop the others."""
    stop_in_order()
    holder = nullcontext(str(keep)) if keep else tempfile.TemporaryDirectory()
    with holder as directory:
        Path(directory).mkdir(parents=True, exist_ok=True)
        failed = [part for part in _PARTS if not _run(part, Path(directory), quick=quick)]
        _summary(Console(width=130), Path(directory))
    if failed:
        raise click.ClickException(f"these parts failed: {', '.join(failed)}")


def _run(part: str, directory: Path, *, quick: bool) -> bool:
    click.secho(f"\n== python -m bench.{part}", bold=True)
    command = [sys.executable, "-m", f"bench.{part}", *_PARTS[part][quick]]
    if part not in _SILENT:
        command += ["--json", str(directory / f"{part}.json")]
    return subprocess.run(command, check=False).returncode == 0


def _summary(console: Console, directory: Path) -> None:
    table = new_table(f"{datetime.now(UTC).date()}, one run, one machine")
    for name in ("what", "ours", "others"):
        table.add_column(name)
    for rows, part in ((_due, "peers"), (_idle, "peers"), (_rates, "sustained"), (_lags, "lag"),
                       (_costs, "million"), (_shares, "pools")):  # fmt: skip
        path = directory / f"{part}.json"
        if path.exists():
            for row in rows(msgspec.json.decode(path.read_bytes())):
                table.add_row(*row)
            table.add_section()
    console.print(table)


def _due(found: Any) -> Iterator[tuple[str, str, str]]:
    for jobs in sorted({row["jobs"] for row in found["due"]}):
        rows = [row for row in found["due"] if row["jobs"] == jobs]
        for field, what in (("dispatched", "all dispatched"), ("all_done", "all done")):
            cells = {row["system"]: _cell(row, field, found["limit_seconds"]) for row in rows}
            others = ", ".join(f"{name} {cell}" for name, cell in cells.items() if name != _OURS)
            yield f"{jobs:,} jobs due at once, {what}", cells.get(_OURS, "-"), others


def _cell(row: Mapping[str, Any], field: str, limit_seconds: float) -> str:
    ms, ratio = row[f"{field}_ms"], row[f"{field}_over_ours"]
    if ms is None:
        reached = row["dispatched_reached" if field == "dispatched" else "done_reached"]
        return f"> {limit_seconds:g} s ({reached:,} of {row['jobs']:,})"
    return f"{_ms(ms)}" + (f" ({ratio:.1f}x)" if ratio and row["system"] != _OURS else "")


def _idle(found: Any) -> Iterator[tuple[str, str, str]]:
    for stored in sorted({row["stored"] for row in found["idle"]}):
        cells = {row["system"]: _ms(row["median_ms"]) for row in found["idle"]
                 if row["stored"] == stored}  # fmt: skip
        others = ", ".join(f"{name} {cell}" for name, cell in cells.items() if name != _OURS)
        yield f"one idle tick, {stored:,} stored", cells.get(_OURS, "-"), others


def _rates(found: Any) -> Iterator[tuple[str, str, str]]:
    for fsync in ("everysec", "always"):
        rates = {row["who"]: f"{row['per_second']:,.0f}/s" for row in found
                 if row["fsync"] == fsync}  # fmt: skip
        ours, *others = rates.items()
        text = ", ".join(f"{who} {rate}" for who, rate in others)
        yield f"sustained dispatch, appendfsync {fsync}", ours[1], text


def _lags(found: Any) -> Iterator[tuple[str, str, str]]:
    for row in found:
        what = f"due until {row['until']}, {row['load']}, {row['stored']:,} stored"
        figures = " / ".join(_ms(row[name]) for name in ("p50", "p99", "most"))
        yield what, f"p50 / p99 / max {figures}", ""


def _costs(found: Any) -> Iterator[tuple[str, str, str]]:
    for row in found:
        value = f"{row['value']:,.0f}" if row["value"] >= 100 else f"{row['value']:,.2f}"
        yield f"{row['what']} ({row['count']:,})", f"{value} {row['unit']}", ""


def _shares(found: Any) -> Iterator[tuple[str, str, str]]:
    for pool in dict.fromkeys(row["pool"] for row in found):
        rows = [row for row in found if row["pool"] == pool]
        text = ", ".join(f"{row['app']} {row['busy']:.0%}" for row in rows if not row["events"])
        yield f"naps of 50 ms under {pool}, slots busy", text, ""


def _ms(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:,.0f} s"
    return (
        f"{value / 1000:,.1f} s" if value >= 1_000 else f"{value:,.{0 if value >= 10 else 1}f} ms"
    )


if __name__ == "__main__":
    main()
