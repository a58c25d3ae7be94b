"""Programs of 0.1.0 beside those of this version, in a project that moves into its namespace."""

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
