"""Tests programs of 0.1.0 beside this version while a project moves to its own namespace."""

from __future__ import annotations

from itertools import pairwise

import pytest

from hermes_celery.core.run import due_ms_of
from hermes_celery.store.keys import Keys
from tests.projects.bed import Bed
from tests.projects.before import end, hermes, incidents, listed, shop, started
from tests.support import eventually

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

__all__ = ["shop"]  # a fixture


def test_jobs_keep_running_and_no_run_starts_twice_beside_programs_of_0_1_0(shop: Bed) -> None:
    worker, beat = shop.worker(**shop.old), shop.beat(**shop.old)
    shop.await_notes("stock", 2)
    shop.up()
    eventually(
        lambda: "programs of version 0.1.0 are there" in incidents(shop),
        what="an incident about programs of 0.1.0",
    )
    assert listed(shop) == {}
    assert "others on this server are hermes" in shop.hermes("list").stdout
    end(beat)
    _await_more_runs(shop)
    end(worker)
    _await_more_runs(shop)
    eventually(lambda: "stock" in listed(shop), what="the moved job")
    _await_more_runs(shop)
    # A beat of 0.1.0 that returns dispatches nothing.
    back = shop.beat(**shop.old)
    eventually(
        lambda: hermes(shop).call("GET", Keys().lease), what="the leadership of the old beat"
    )
    _await_more_runs(shop)
    end(back)
    assert listed(shop, "hermes") == {}
    ids = started(shop)
    assert len(set(ids)) == len(ids)
    dues = [due_ms_of(run_id) for run_id in ids]
    assert max(b - a for a, b in pairwise(dues)) <= 5000


def _await_more_runs(shop: Bed) -> None:
    before = len(started(shop))
    eventually(lambda: len(started(shop)) >= before + 4, what="more runs")
