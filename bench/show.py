"""How benchmarks print, and how they stop when they are told to."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from statistics import median
from typing import NoReturn

from rich.table import Table


def new_table(title: str) -> Table:
    """An empty table under a title."""
    return Table(title=title, title_justify="left", title_style="bold")


def spread(values: Sequence[float], *, digits: int = 0) -> str:
    """Median (min..max)."""
    middle, low, high = median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}..{high:,.{digits}f})"


def _interrupted(*_: object) -> NoReturn:
    """End in order, once: a second signal must not cut the cleaning up short."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def stop_in_order() -> None:
    """Have SIGINT and SIGTERM end the benchmark as Ctrl-C does: what it started is ended too."""
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, _interrupted)
