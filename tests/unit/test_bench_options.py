"""The options that benchmarks share, with a command that prints what it was given."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bench import options


@click.command()
@options.counts("--stored", default=(10, 100), what="Number of stored jobs")
@options.rounds
@options.only("--pool", ("threads", "solo"), what="pool")
@options.json_path
def measure(
    stored: tuple[int, ...], rounds: int, pool: tuple[str, ...], json_path: Path | None
) -> None:
    """Write the options as figures."""
    options.write_figures(json_path, {"stored": stored, "rounds": rounds, "pool": pool})


@pytest.mark.parametrize(
    ("words", "figures"),
    [
        ("", {"stored": [10, 100], "rounds": 3, "pool": ["threads", "solo"]}),
        (
            "--stored 1 --stored 2 --rounds 1 --pool solo",
            {"stored": [1, 2], "rounds": 1, "pool": ["solo"]},
        ),
    ],
)
def test_figures_are_written_for_what_was_asked(
    tmp_path: Path, words: str, figures: dict[str, object]
) -> None:
    path = tmp_path / "figures.json"
    done = CliRunner().invoke(measure, [*words.split(), "--json", str(path)])
    assert done.exit_code == 0, done.output
    assert json.loads(path.read_bytes()) == figures


def test_without_a_file_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(measure, []).exit_code == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["--rounds 0", "--pool gevent", "--stored many", "--json ."])
def test_a_value_that_cannot_be_is_refused(words: str) -> None:
    assert CliRunner().invoke(measure, words.split()).exit_code == 2
