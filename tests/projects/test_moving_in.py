"""A project that 0.1.0 served comes with its jobs into a namespace of its own."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from hermes_celery.keys import Keys
from hermes_celery.run import due_ms_of
from hermes_celery.store import Database, connect
from tests import old
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Bed]:
    with Bed("shop", tmp_path) as shop:
        unpacked = old.unpack(tmp_path / "0.1.0")
        shop.old = {"PYTHONPATH": f"{unpacked}:{shop.environment['PYTHONPATH']}"}
        yield shop


def as_before(shop: Bed, *arguments: str) -> None:
    """A command of 0.1.0, to its end."""
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
    """The runs of `stock` that a worker began, in their order."""
    return [row[1] for row in shop.notes("stock")]


def hermes(shop: Bed) -> Database:
    """The namespace of 0.1.0."""
    return Database(connect(shop.server.url), keys=Keys())


def test_what_0_1_0_kept_in_the_shared_namespace_comes_along(shop: Bed) -> None:
    worker, beat = shop.worker(**shop.old), shop.beat(**shop.old)
    shop.await_notes("stock", 2)
    as_before(shop, "add", "every 1h", "--task", "shop.report", "--name", "by hand")
    as_before(shop, "add", "every 1h", "--task", "mail.send", "--name", "of another")
    as_before(shop, "add", "every 1h", "--script", "b.sh", "--no-agent", "--name", "backup",
              "--elsewhere")  # fmt: skip
    as_before(shop, "pause", "nightly")
    end(beat)
    end(worker)
    before = started(shop)
    shop.up()
    eventually(lambda: len(started(shop)) > len(before) + 2, what="runs in the new namespace")
    eventually(lambda: "by hand" in listed(shop), what="all jobs")
    found = listed(shop)
    assert set(found) == {"stock", "nightly", "by hand"}
    assert found["nightly"]["state"] == "paused"
    assert set(listed(shop, "hermes")) == {"of another", "backup"}
    runs = {run.id for run in shop.runs("stock")}
    assert set(before) <= runs
    assert len(set(started(shop))) == len(started(shop))
    eventually(lambda: "may be of this project" in incidents(shop), what="an incident")
    assert "2 jobs in namespace 'hermes'" in incidents(shop)
    for name in ("backup", "of another"):
        assert shop.hermes("move", name).returncode == 0
    eventually(lambda: "2 jobs" not in incidents(shop), what="the end of it")
    assert set(listed(shop)) == {"stock", "nightly", "by hand", "of another", "backup"}


def test_while_0_1_0_is_there_everything_runs_on_and_nothing_twice(shop: Bed) -> None:
    worker, beat = shop.worker(**shop.old), shop.beat(**shop.old)
    shop.await_notes("stock", 2)
    shop.up()
    eventually(lambda: "programs of version 0.1.0 are there" in incidents(shop), what="a word")
    assert listed(shop) == {}
    assert "others on this server are hermes" in shop.hermes("list").stdout
    end(beat)
    _goes_on(shop)
    end(worker)
    _goes_on(shop)
    eventually(lambda: "stock" in listed(shop), what="the move")
    _goes_on(shop)
    # A beat of 0.1.0 that comes back begins nothing anew.
    back = shop.beat(**shop.old)
    eventually(lambda: hermes(shop).call("GET", Keys().lease), what="its lead")
    _goes_on(shop)
    end(back)
    assert listed(shop, "hermes") == {}
    ids = started(shop)
    assert len(set(ids)) == len(ids)
    dues = [due_ms_of(run_id) for run_id in ids]
    assert max(b - a for a, b in pairwise(dues)) <= 5000


def _goes_on(shop: Bed) -> None:
    before = len(started(shop))
    eventually(lambda: len(started(shop)) >= before + 4, what="runs that go on")
