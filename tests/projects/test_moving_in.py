"""Tests that a project's jobs move from the shared namespace of 0.1.0 to the project's own."""

from __future__ import annotations

import pytest

from tests.projects.bed import Bed
from tests.projects.before import end, incidents, listed, run_old_command, shop, started
from tests.support import eventually

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

__all__ = ["shop"]  # a fixture


def test_the_projects_jobs_and_runs_of_0_1_0_move_to_its_own_namespace(shop: Bed) -> None:
    worker, beat = shop.worker(**shop.old), shop.beat(**shop.old)
    shop.await_notes("stock", 2)
    run_old_command(shop, "add", "every 1h", "--task", "shop.report", "--name", "by hand")
    run_old_command(shop, "add", "every 1h", "--task", "mail.send", "--name", "of another")
    run_old_command(shop, "add", "every 1h", "--script", "b.sh", "--no-agent", "--name", "backup",
              "--elsewhere")  # fmt: skip
    run_old_command(shop, "pause", "nightly")
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
    eventually(lambda: "may belong to this project" in incidents(shop), what="an incident")
    assert "2 jobs in namespace 'hermes'" in incidents(shop)
    for name in ("backup", "of another"):
        assert shop.hermes("move", name).returncode == 0
    eventually(lambda: "2 jobs" not in incidents(shop), what="the closed incident")
    assert set(listed(shop)) == {"stock", "nightly", "by hand", "of another", "backup"}
