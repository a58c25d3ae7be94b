"""Tests job records that are deleted in the server: the job is restored or reported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes_celery.core.incidents import TroubleKind
from hermes_celery.store import Database, Incidents, Jobs
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


@pytest.mark.parametrize("moment", ["before the beat", "while the beat runs"])
def test_declared_jobs_come_back_when_their_list_is_lost_with_them(
    tmp_path: Path, moment: str
) -> None:
    with Bed("plain", tmp_path) as bed:
        bed.worker()
        beat = bed.beat()
        bed.await_notes("tick", 2)
        database = bed.database()
        tick = Jobs(database).find("tick").id
        managed = database.keys.managed("project:plain")
        assert tick in database.call("SMEMBERS", managed)
        if moment == "before the beat":
            beat.terminate()
            assert beat.wait(30) == 0
        database.call("DEL", managed, database.keys.job(tick))
        database.call("HSET", managed, "a", "b")
        if moment == "before the beat":
            bed.beat()
        _await_restored(bed, tick)
        assert tick in database.call("SMEMBERS", managed)
        texts = [one.text for one in Incidents(database).open()]
        assert any("not a set; moved to quarantine" in text for text in texts)


#: What is overwritten in the record of a job that runs every second.
_OVERWRITTEN = {
    "a state that is no word": {"state": "\udce2\udc82"},
    "completed": {"state": "completed"},
    "a next instant that is no number": {"next_ms": "\udce2\udc82"},
    "a next instant in the year 5138": {"next_ms": "99999999999999"},
}


@pytest.mark.parametrize("what", _OVERWRITTEN)
@pytest.mark.parametrize("is_in_index", [True, False])
def test_a_declared_job_whose_standing_was_overwritten_runs_on_and_it_is_told(
    plain: Bed, what: str, is_in_index: bool
) -> None:
    database = plain.database()
    tick = Jobs(database).find("tick").id
    plain.await_notes("tick", len(plain.notes("tick")) + 1)
    before = _told_about(database, tick)
    fields = [part for pair in _OVERWRITTEN[what].items() for part in pair]
    database.call("HSET", database.keys.job(tick), *fields)
    if is_in_index and "next_ms" in _OVERWRITTEN[what]:
        at_ms = _OVERWRITTEN[what]["next_ms"] if "5138" in what else database.now_ms()
        database.call("ZADD", database.keys.due, at_ms, tick)
    elif not is_in_index:
        database.call("ZREM", database.keys.due, tick)
        if what == "completed":
            database.call("HDEL", database.keys.job(tick), "next_ms")
    eventually(lambda: _told_about(database, tick) - before, what="an incident about the job")
    plain.await_notes("tick", len(plain.notes("tick")) + 2)


def _told_about(database: Database, job_id: str) -> set[tuple[str, int]]:
    """Return the incidents that name a job, each with how often it was told."""
    return {(one.id, one.count) for one in Incidents(database).open() if job_id in one.text}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with Bed("plain", tmp_path_factory.mktemp("overwritten")) as bed:
        bed.up()
        yield bed


def _await_restored(bed: Bed, job_id: str) -> None:
    database = bed.database()
    eventually(
        lambda: database.call("TYPE", database.keys.job(job_id)) == "hash",
        what="the restored job",
        seconds=30,
    )
    bed.await_notes("tick", len(bed.notes("tick")) + 2)
