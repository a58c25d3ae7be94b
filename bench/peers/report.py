"""The report of all figures, as tables and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table

from bench.peers.measure import Span, Times
from bench.show import new_table, spread

_NONE = "-"


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of all rounds of one system with N due jobs."""

    system: str
    jobs: int
    rounds: list[Times]

    @property
    def dispatched_ms(self) -> float | None:
        """Median until the last message was queued; None if a round reached the limit."""
        return _median([times.dispatched.last_ms for times in self.rounds])

    @property
    def dispatch_span_ms(self) -> float | None:
        """Median from the first to the last message."""
        return _median([_width(times.dispatched) for times in self.rounds])

    @property
    def first_start_ms(self) -> float | None:
        """Median until the first run started."""
        return _median([times.runs.first_ms for times in self.rounds])

    @property
    def all_done_ms(self) -> float | None:
        """Median until the last run finished; None if a round reached the limit."""
        return _median([times.runs.last_ms for times in self.rounds])


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """The times of single ticks with nothing due."""

    system: str
    stored: int
    #: Default interval between two ticks.
    every: str
    ticks_ms: list[float]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A system that could not be installed or measured."""

    system: str
    what: str
    why: str


class Report(msgspec.Struct, kw_only=True):
    """The figures of one run of the command."""

    limit_seconds: float
    #: Name of the system with which all others are compared.
    ours: str
    #: Load average of the minute before the start: other work, which distorts the figures.
    load: float
    due: list[Measured] = []
    idle: list[Idle] = []
    faults: list[Fault] = []

    def of_ours(self, jobs: int) -> tuple[float | None, float | None]:
        """Return this package's medians until all dispatched and until all done."""
        for measured in self.due:
            if measured.system == self.ours and measured.jobs == jobs:
                return measured.dispatched_ms, measured.all_done_ms
        return None, None


def print_report(console: Console, report: Report) -> None:
    """Print the tables that have figures, then the remarks."""
    if report.due:
        console.print(_due_table(report))
    if report.idle:
        console.print(_idle_table(report))
    for line in _notes(report):
        console.print(line, highlight=False)


def _notes(report: Report) -> Iterator[str]:
    for measured in report.due:
        for times in measured.rounds:
            if times.note:
                yield f"{measured.system}, {measured.jobs:,} jobs, at the limit: {times.note}"
    for fault in report.faults:
        yield f"{fault.system}, {fault.what}: {fault.why}"


def figures(report: Report) -> dict[str, object]:
    """Return medians and all rounds in ms, for JSON; null if the limit was reached first."""
    return {
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load_at_begin": report.load,
        },
        "limit_seconds": report.limit_seconds,
        "due": [_due_figures(measured, report) for measured in report.due],
        "idle": [
            {"median_ms": median(idle.ticks_ms), **msgspec.to_builtins(idle)}
            for idle in report.idle
        ],
        "faults": report.faults,
    }


def _due_figures(measured: Measured, report: Report) -> dict[str, object]:
    dispatched_ms, all_done_ms = report.of_ours(measured.jobs)
    return {
        "system": measured.system,
        "jobs": measured.jobs,
        "dispatched_ms": measured.dispatched_ms,
        "dispatch_span_ms": measured.dispatch_span_ms,
        "first_start_ms": measured.first_start_ms,
        "all_done_ms": measured.all_done_ms,
        "dispatched_reached": min(times.dispatched.reached for times in measured.rounds),
        "done_reached": min(times.runs.reached for times in measured.rounds),
        "dispatched_over_ours": _ratio(measured.dispatched_ms, dispatched_ms),
        "all_done_over_ours": _ratio(measured.all_done_ms, all_done_ms),
        "rounds": measured.rounds,
    }


def _due_table(report: Report) -> Table:
    table = new_table(
        "N jobs due at one instant: ms since that instant, median (min..max); x: times ours"
    )
    for name in ("jobs", "system", "all dispatched", "x", "span", "first start", "all done", "x"):
        table.add_column(name, justify="left" if name == "system" else "right")
    for jobs in sorted({measured.jobs for measured in report.due}):
        for measured in (m for m in report.due if m.jobs == jobs):
            table.add_row(f"{jobs:,}", measured.system, *_due_cells(measured, report))
        table.add_section()
    _add_faults(table, report)
    return table


def _due_cells(measured: Measured, report: Report) -> Sequence[str]:
    dispatched_ms, all_done_ms = report.of_ours(measured.jobs)
    limit_ms = report.limit_seconds * 1000
    return (
        _last(measured.rounds, lambda times: times.dispatched, report.limit_seconds),
        _times(measured.dispatched_ms, dispatched_ms, limit_ms),
        _plain(measured.dispatch_span_ms),
        _plain(measured.first_start_ms, otherwise=f"> {report.limit_seconds:g} s"),
        _last(measured.rounds, lambda times: times.runs, report.limit_seconds),
        _times(measured.all_done_ms, all_done_ms, limit_ms),
    )


def _last(rounds: Sequence[Times], of: Callable[[Times], Span], limit_seconds: float) -> str:
    """Return the time of the last one, or the number reached within the limit."""
    spans = [of(times) for times in rounds]
    last = [span.last_ms for span in spans if span.last_ms is not None]
    if len(last) == len(spans):
        return spread(last)
    reached = min(span.reached for span in spans)
    return f"> {limit_seconds:g} s ({reached:,} of {spans[0].wanted:,})"


def _idle_table(report: Report) -> Table:
    table = new_table("One tick with nothing due, ms, median (min..max)")
    for name in ("stored", "system", "one tick", "happens every"):
        table.add_column(name, justify="left" if name == "system" else "right")
    for stored in sorted({idle.stored for idle in report.idle}):
        for idle in (i for i in report.idle if i.stored == stored):
            ticks = spread(idle.ticks_ms, digits=2)
            table.add_row(f"{stored:,}", idle.system, ticks, idle.every)
        table.add_section()
    _add_faults(table, report)
    return table


def _add_faults(table: Table, report: Report) -> None:
    """Add a row for each missing system; the reason is printed below the tables."""
    for fault in report.faults:
        table.add_row(_NONE, fault.system, f"failed: {fault.what}")


def _width(span: Span) -> float | None:
    if span.first_ms is None or span.last_ms is None:
        return None
    return span.last_ms - span.first_ms


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known and len(known) == len(values) else None


def _plain(value: float | None, *, otherwise: str = _NONE) -> str:
    return otherwise if value is None else f"{value:,.0f}"


def _ratio(value: float | None, ours: float | None) -> float | None:
    return value / ours if value and ours else None


def _times(value: float | None, ours: float | None, limit_ms: float) -> str:
    """Return the multiple of ours as text; a lower bound `> x` if the limit was reached."""
    ratio = _ratio(value or limit_ms, ours)
    return _NONE if ratio is None else f"{'' if value else '> '}{ratio:,.1f}"
