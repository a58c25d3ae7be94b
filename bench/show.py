"""Tables for benchmarks, and an orderly stop on SIGINT and SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from statistics import median
from typing import NoReturn

from rich.table import Table


def new_table(title: str) -> Table:
    """Return an empty table with a title."""
    return Table(title=title, title_justify="left", title_style="bold")


def spread(values: Sequence[float], *, digits: int = 0) -> str:
    """Return `median (min..max)` as text."""
    middle, low, high = median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}..{high:,.{digits}f})"


def _interrupted(*_: object) -> NoReturn:
    """Raise KeyboardInterrupt once; ignore a second signal, which would interrupt the clean-up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def stop_in_order() -> None:
    """Make SIGINT and SIGTERM end the benchmark and all processes that it started."""
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, _interrupted)
