"""Fixtures that run the project `shop` with programs of version 0.1.0."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from hermes_celery.store import Database, connect
from hermes_celery.store.keys import Keys
from tests import version_0_1_0
from tests.projects.bed import Bed


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Bed]:
    with Bed("shop", tmp_path) as shop:
        unpacked = version_0_1_0.unpack(tmp_path / "0.1.0")
        shop.old = {"PYTHONPATH": f"{unpacked}:{shop.environment['PYTHONPATH']}"}
        yield shop


def run_old_command(shop: Bed, *arguments: str) -> None:
    """Run a command of 0.1.0 and wait until it has exited with 0."""
    command = shop.start(sys.executable, "-m", "hermes_celery", *arguments,
                         HERMES_REDIS_URL=shop.server.url, **shop.old)  # fmt: skip
    assert command.wait(timeout=40) == 0, shop.log(command)


def end(process: Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=40)


def listed(shop: Bed, namespace: str = "shop") -> dict[str, dict[str, Any]]:
    found = json.loads(shop.command("-N", namespace, "list", "--json").stdout)
    return {job["name"]: job for job in found}


def incidents(shop: Bed) -> str:
    return shop.hermes("incidents").stdout


def started(shop: Bed) -> list[str]:
    """Return the ids of the started runs of `stock`, in order."""
    return [row[1] for row in shop.notes("stock")]


def hermes(shop: Bed) -> Database:
    """Return a connection to the namespace that 0.1.0 used."""
    return Database(connect(shop.server.url), keys=Keys())
