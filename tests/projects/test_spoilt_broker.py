"""What kombu keeps beside its queues is spoilt: no worker stops for it, and it is told."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from hermes_celery.store import Database
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system

#: Each of them keeps all workers of the broker from their queues, some only when they reconnect.
SPOILT = (
    "unacked",
    "unacked_index",
    "_kombu.binding.celery",
    "_kombu.binding.celery.pidbox",
    "_kombu.binding.celeryev",
    "_kombu.binding_permanent.celery",
    "_kombu.binding_deadlines",
)


def _is_mended(database: Database, key: str) -> bool:
    return bool(database.call("TYPE", key) != "string")


def test_a_key_of_the_broker_of_the_wrong_type_stops_no_worker_for_good(tmp_path: Path) -> None:
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
            eventually(partial(_is_mended, database, key), what=f"{key} is moved")
        before = len(bed.notes("tick"))
        bed.await_notes("tick", before + 3)
        told = bed.hermes("incidents").stdout
        assert "key 'unacked' is a string, not a hash" in told


def test_what_the_broker_keeps_is_looked_at_by_hand_too(tmp_path: Path) -> None:
    with Bed("plain", tmp_path) as bed:
        database = bed.database()
        database.call("SET", "unacked", "garbage")
        looked = bed.command("-A", "plain", "fsck")
        assert looked.returncode == 1, looked
        assert "unacked is a string" in " ".join(looked.stdout.replace("'", "").split()), looked
        assert bed.command("-A", "plain", "doctor").returncode == 1
        assert bed.command("-A", "plain", "fsck", "--repair").returncode == 0
        assert database.call("EXISTS", "unacked") == 0
