"""Tests a server that is emptied while a project runs: jobs continue and the loss is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from hermes_celery.store import Incidents, Jobs
from tests.pace import quiet_seconds_until
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system


def test_a_single_beat_notices_an_emptied_server_in_its_first_term(tmp_path: Path) -> None:
    with Bed("plain", tmp_path) as bed:
        bed.worker()
        beat = bed.beat()
        bed.await_notes("tick", 2)
        database = bed.database()
        assert database.call("GET", database.keys.term) == "1"
        assert bed.hermes("add", "0 9 * * *", "hello").returncode == 0
        kept = tmp_path / "home" / "cron" / "hermes-celery"
        eventually(
            lambda: any('"jobs":2' in one.read_text() for one in kept.glob("seen-plain-*.json")),
            what="the file that counts two jobs",
        )
        assert bed.hermes("status", "--check").returncode == 0
        database.call("FLUSHDB")
        eventually(lambda: "jobs.gone" in bed.log(beat), what="the loss in the beat's log")
        _await_declared(bed)
        bed.await_notes("tick", len(bed.notes("tick")) + 2)
        # The job that was not declared is lost.
        status = bed.hermes("status", "--check")
        assert status.returncode == 1
        assert "2 jobs that were here at" in status.stdout
        assert "2 jobs that were here at" in bed.hermes("incidents").stdout
        _acknowledge(bed)
        # It is reported even if all jobs are declared again, since pauses and history are lost.
        eventually(
            lambda: any('"jobs":1' in one.read_text() for one in kept.glob("seen-plain-*.json")),
            what="the file that counts one job",
        )
        database.call("FLUSHDB")
        _await_declared(bed)
        bed.await_notes("tick", len(bed.notes("tick")) + 2)
        (told,) = Incidents(database).open()
        assert "`hermes-celery -N plain incidents ack gone-jobs`" in told.text
        assert bed.hermes("status", "--check").returncode == 1
        doctor = bed.hermes("doctor")
        assert doctor.returncode == 1
        assert "the server lost its data: 1 job that was here" in " ".join(doctor.stdout.split())
        _acknowledge(bed)


def _await_declared(bed: Bed) -> None:
    jobs = Jobs(bed.database())
    took = quiet_seconds_until(lambda: jobs.count() == 1, seconds=60, what="the declared job")
    assert took < 10


def _acknowledge(bed: Bed) -> None:
    assert bed.hermes("incidents", "ack", "gone-jobs").returncode == 0
    assert bed.hermes("status", "--check").returncode == 0
    incidents = Incidents(bed.database())
    eventually(lambda: not incidents.open(), what="the closed incident")
