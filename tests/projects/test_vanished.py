"""Tests job records that are deleted in the server: the job is restored or reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from hermes_celery.core.incidents import TroubleKind
from hermes_celery.store import Incidents, Jobs
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system


def test_a_deleted_declared_job_is_restored_and_any_other_deleted_job_is_reported(
    tmp_path: Path,
) -> None:
    with Bed("plain", tmp_path) as bed:
        bed.up()
        bed.await_notes("tick", 2)
        assert bed.hermes("add", "0 9 * * *", "hello", "--name", "Nightly").returncode == 0
        database = bed.database()
        keys, jobs, incidents = database.keys, Jobs(database), Incidents(database)
        tick, nightly = jobs.find("tick").id, jobs.find("Nightly").id
        mark = database.call("GET", keys.mark)

        database.call("DEL", keys.job(tick))
        _await_restored(bed, tick)
        named = next(one for one in incidents.open() if one.id == f"broken-job:{tick}")
        assert named.job_name == "tick"
        assert "the beat stores it again" in named.text
        assert f"→ hermes-celery -A plain show {tick}" in named.text
        assert bed.hermes("status", "--check").returncode == 0

        database.call("SET", keys.job(tick), "garbage")
        database.call("DEL", keys.job(nightly), keys.mark)
        database.call("HSET", keys.mark, "a", "b")
        _await_restored(bed, tick)
        gone = eventually(
            lambda: [one for one in incidents.open() if one.kind is TroubleKind.GONE],
            what="the incident about the deleted job",
        )
        assert [one.id for one in gone] == [f"gone-{nightly}"]
        assert gone[0].job_name.casefold() == "nightly"
        for words in (("status", "--check"), ("doctor",)):
            answer = bed.hermes(*words)
            assert answer.returncode == 1
            assert "Cron 'nightly' is gone" in " ".join(answer.stdout.split())

        # Only the mark was lost, so the server has not lost its data.
        eventually(
            lambda: (
                database.call("TYPE", keys.mark) == "string"
                and database.call("GET", keys.mark) == mark
            ),
            what="the restored mark",
        )
        assert bed.hermes("incidents", "ack", gone[0].id).returncode == 0
        assert bed.hermes("status", "--check").returncode == 0
        assert "lost its data" not in bed.hermes("doctor").stdout


def _await_restored(bed: Bed, job_id: str) -> None:
    database = bed.database()
    eventually(
        lambda: database.call("TYPE", database.keys.job(job_id)) == "hash",
        what="the restored job",
        seconds=30,
    )
    bed.await_notes("tick", len(bed.notes("tick")) + 2)
