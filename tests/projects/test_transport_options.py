"""Tests that the doctor knows the key names that a project's transport options give its queues."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.projects.bed import Bed
from tests.support import eventually, one_spaced

pytestmark = pytest.mark.system


@pytest.mark.parametrize("options", [{"KEYPREFIX": "front:"}, {"KEYPREFIX": "front:", "SEP": ":"}])
def test_the_doctor_finds_the_worker_that_consumes_renamed_queues(
    tmp_path: Path, options: dict[str, str]
) -> None:
    with Bed("walled", tmp_path) as bed:
        bed.namespace = "shop"
        bed.environment |= options
        bed.worker("-c", "1")
        bed.beat()
        bed.await_notes("last", 1)
        assert bed.hermes("run", "slow").returncode == 0
        bed.await_notes("slow")
        # All slots are busy now, so messages of both priorities wait.
        prefix, sep = options.get("KEYPREFIX", ""), options.get("SEP", "\x06\x16")
        lists = [f"{prefix}celery", f"{prefix}celery{sep}{5 if 'SEP' in options else 9}"]
        database = bed.database()
        eventually(
            lambda: all(database.call("LLEN", key) > 0 for key in lists),
            what="messages of both priorities",
        )
        told = bed.hermes("doctor").stdout
        assert "nobody" not in told.lower(), told
        assert "ok workers 1" in one_spaced(told)
