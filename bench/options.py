"""Options that several benchmarks have, and the file that `--json` names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

_Option = Callable[[Callable[..., Any]], Callable[..., Any]]

#: Its value belongs to `write_figures`.
json_path = click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the figures to this file.",
)
rounds = click.option(
    "--rounds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Rounds of each measurement.",
)


def counts(name: str, *, default: Sequence[int], what: str) -> _Option:
    """Return an option that takes a number and may be repeated."""
    return click.option(
        name,
        multiple=True,
        type=int,
        default=default,
        show_default=True,
        help=f"{what}; repeatable.",
    )


def only(name: str, choices: Sequence[str], *, what: str) -> _Option:
    """Return an option that names what is measured; without it, everything is."""
    return click.option(
        name,
        multiple=True,
        type=click.Choice(choices),
        default=choices,
        show_default=True,
        help=f"Measure only this {what}; repeatable.",
    )


def write_figures(path: Path | None, figures: object) -> None:
    """Write figures as JSON to the file that `--json` names, if it is given."""
    if path is not None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1) + b"\n")
