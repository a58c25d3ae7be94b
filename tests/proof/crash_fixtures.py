"""Fixtures of the tests that set up many scenes, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from bench.server import valkey
from tests.proof.fork_server import ForkServer


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    """Yield the warm process that forks the children."""
    with ForkServer() as fork_server:
        yield fork_server


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Yield the URL of a server of its own: every scene begins by emptying it."""
    with valkey(aof=False) as url:
        yield url


@pytest.fixture
def starts(tmp_path: Path) -> Callable[[], Path]:
    """Return a function that makes a fresh directory for the starts of a scene."""
    numbers = count()

    def fresh() -> Path:
        path = tmp_path / str(next(numbers))
        path.mkdir()
        return path

    return fresh
