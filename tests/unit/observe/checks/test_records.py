"""The checks of stored records: none is lost, all can be read, and no retry is overdue."""

from __future__ import annotations

from pathlib import Path

from hermes_celery.core.server_address import BrokerNames
from hermes_celery.observe.checks.records import check_jobs, check_records, check_retries
from hermes_celery.observe.finding import Verdict
from hermes_celery.store import Database, Jobs, SweepNote, SweepNotes
from hermes_celery.store.loss_note import LossNote
from tests.support import a_job


def test_unusable_records_are_a_failure_with_a_remedy(valkey: Database) -> None:
    assert check_records(valkey, BrokerNames()).verdict is Verdict.OK
    SweepNotes(valkey).write(SweepNote(ended_ms=5, jobs=7, mended=2))
    assert (
        check_records(valkey, BrokerNames()).text
        == "7 jobs compared by 1970-01-01T00:00:00.005+00:00, 2 repaired"
    )
    SweepNotes(valkey).write(SweepNote(ended_ms=5, jobs=7, left=3))
    assert check_records(valkey, BrokerNames()).verdict is Verdict.WARN
    valkey.call("SET", valkey.keys.due, "x")
    found = check_records(valkey, BrokerNames())
    assert found.verdict is Verdict.FAIL
    assert "due' is a string, not a zset; `hermes-celery fsck --repair`" in found.text


def test_jobs_that_disappeared_are_a_failure(valkey: Database, tmp_path: Path) -> None:
    Jobs(valkey).add(a_job())
    loss_note = LossNote(tmp_path, valkey)
    loss_note.write()
    assert check_jobs(valkey, loss_note).verdict is Verdict.OK
    for key in valkey.call("KEYS", f"{valkey.keys.prefix}*"):
        valkey.call("DEL", key)
    finding = check_jobs(valkey, loss_note)
    assert finding.verdict is Verdict.FAIL
    assert "1 job that was here" in finding.text


def test_a_run_whose_retry_is_overdue_is_named(valkey: Database) -> None:
    now_ms, keys = valkey.now_ms(), valkey.keys
    for number, overdue_ms in enumerate((50_000, 70_000)):
        run_id = f"0123456789ab-20260101T00000{number}Z"
        valkey.call("ZADD", keys.queued, now_ms + 3_600_000, run_id)
        row = {"state": "queued", "handed_on": run_id, "retry_ms": str(now_ms - overdue_ms)}
        valkey.call("HSET", keys.run(run_id), *(part for pair in row.items() for part in pair))
    (found,) = check_retries(valkey)
    assert found.verdict is Verdict.WARN
    assert "20260101T000001Z" in found.text
    assert "no worker takes it, or the worker that had it is gone" in found.text
