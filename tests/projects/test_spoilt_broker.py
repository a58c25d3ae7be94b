"""Tests spoilt keys that kombu keeps beside its queues: they are moved away and reported."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from hermes_celery.store import Database
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system

#: Each of these keys, if spoilt, stops all workers; some do so only when a worker reconnects.
SPOILT = (
    "unacked",
    "unacked_index",
    "_kombu.binding.celery",
    "_kombu.binding.celery.pidbox",
    "_kombu.binding.celeryev",
    "_kombu.binding_permanent.celery",
    "_kombu.binding_deadlines",
)


def _is_moved_away(database: Database, key: str) -> bool:
    return bool(database.call("TYPE", key) != "string")


def test_workers_recover_from_broker_keys_of_a_wrong_type(tmp_path: Path) -> None:
    with Bed("plain", tmp_path) as bed:
        bed.worker()
        bed.beat()
        bed.await_notes("tick", 2)
        database = bed.database()
        for key in SPOILT:
            database.call("DEL", key)
            database.call("SET", key, "garbage")
        database.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        for key in SPOILT:
            eventually(partial(_is_moved_away, database, key), what=f"the removal of {key}")
        before = len(bed.notes("tick"))
        bed.await_notes("tick", before + 3)
        told = bed.hermes("incidents").stdout
        assert "key 'unacked' is a string, not a hash" in told


def test_fsck_checks_and_repairs_the_brokers_keys(tmp_path: Path) -> None:
    with Bed("plain", tmp_path) as bed:
        database = bed.database()
        database.call("SET", "unacked", "garbage")
        looked = bed.command("-A", "plain", "fsck")
        assert looked.returncode == 1, looked
        assert "unacked is a string" in " ".join(looked.stdout.replace("'", "").split()), looked
        assert bed.command("-A", "plain", "doctor").returncode == 1
        assert bed.command("-A", "plain", "fsck", "--repair").returncode == 0
        assert database.call("EXISTS", "unacked") == 0
