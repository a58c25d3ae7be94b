"""`doctor` says one line for each thing, and what to do where it is not in order."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from hermes_celery.cli import main
from hermes_celery.observe.checks.records import check_jobs, check_records, check_retries
from hermes_celery.observe.finding import Verdict
from hermes_celery.store import Database, Jobs, SweepNote, SweepNotes
from hermes_celery.store.loss_note import Witness
from tests.support import a_job


def findings(*, exit_code: int) -> dict[str, tuple[str, str]]:
    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert result.exit_code == exit_code, result.output
    return {row["check"]: (row["verdict"], row["text"]) for row in json.loads(result.stdout)}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("HERMES_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HERMES_HOME", str(tmp_path))
    return tmp_path


def test_everything_in_order(
    home: Path, valkey_url: str, valkey: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = valkey.keys
    monkeypatch.setenv("HERMES_REDIS_URL", valkey_url)
    monkeypatch.setenv("HERMES_CELERY_NAMESPACE", keys.namespace)
    monkeypatch.setenv("HERMES_CELERY_AGENT_COMMAND", "bash -c {prompt}")
    (home / "scripts").mkdir()
    (home / "scripts" / "hi.sh").touch()
    valkey.call("SET", keys.lease, "beat:1", "PX", 60_000)
    valkey.call("ZADD", keys.workers, valkey.now_ms(), "worker@host")
    found = findings(exit_code=0)
    assert {verdict for verdict, _ in found.values()} == {"ok"}
    assert found["workers"][1] == "1: worker@host"
    assert found["agent"][1].endswith("/bash")
    assert found["scripts"][1].endswith("scripts, 1 files")


def test_nothing_in_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    found = findings(exit_code=1)
    assert found["server"][0] == "fail"
    assert "start one with `hermes-celery up`" in found["server"][1]
    assert found["agent"][0] == "warn"
    assert "pip install hermes-agent" in found["agent"][1]
    assert found["scripts"][0] == "warn"


def test_without_beat_and_worker_nothing_would_run(
    home: Path, valkey_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_REDIS_URL", valkey_url)
    monkeypatch.setenv("HERMES_CELERY_NAMESPACE", namespace)
    found = findings(exit_code=1)
    assert (found["beat"][0], found["workers"][0]) == ("fail", "fail")


def test_settings_that_make_no_sense_are_all_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_CELERY_SESSION", "mine")
    monkeypatch.setenv("HERMES_CELERY_INTERPRETERS", "bin")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert result.stdout.count("fail  settings") == 2


def test_records_that_cannot_be_used_are_a_failure_with_what_to_do(valkey: Database) -> None:
    assert check_records(valkey).verdict is Verdict.OK
    SweepNotes(valkey).write(SweepNote(ended_ms=5, jobs=7, mended=2))
    assert (
        check_records(valkey).text == "7 jobs compared by 1970-01-01T00:00:00.005+00:00, 2 mended"
    )
    SweepNotes(valkey).write(SweepNote(ended_ms=5, jobs=7, left=3))
    assert check_records(valkey).verdict is Verdict.WARN
    valkey.call("SET", valkey.keys.due, "x")
    found = check_records(valkey)
    assert found.verdict is Verdict.FAIL
    assert "due' is a string, not a zset; `hermes-celery fsck --repair`" in found.text


def test_jobs_that_a_beat_saw_and_that_are_gone_are_a_failure(
    valkey: Database, tmp_path: Path
) -> None:
    Jobs(valkey).add(a_job())
    witness = Witness(tmp_path, valkey)
    witness.note()
    assert check_jobs(valkey, witness).verdict is Verdict.OK
    for key in valkey.call("KEYS", f"{valkey.keys.prefix}*"):
        valkey.call("DEL", key)
    finding = check_jobs(valkey, witness)
    assert finding.verdict is Verdict.FAIL
    assert "1 jobs that were here" in finding.text


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
    assert "waits for the retry that a worker took with it" in found.text


@pytest.mark.parametrize(
    ("alerts", "verdict", "why"),
    [
        ("local", "ok", "kept here only"),
        ("json://example.com/secret", "ok", "sent to json://***"),
        ("garbage", "fail", "HERMES_CELERY_ALERTS: cannot deliver to that: 'garbage' is neither"),
        ("nonsense://x", "fail", "HERMES_CELERY_ALERTS: cannot deliver to that"),
        ("origin", "fail", "alerts are about no job, so they have no origin"),
        ("telegram", "fail", "HERMES_CELERY_ALERTS: telegram means no place on this machine"),
    ],
)
def test_where_alerts_go_is_looked_at(
    home: Path, monkeypatch: pytest.MonkeyPatch, alerts: str, verdict: str, why: str
) -> None:
    monkeypatch.setenv("HERMES_CELERY_ALERTS", alerts)
    found = findings(exit_code=1)
    assert found["alerts"][0] == verdict
    assert why in found["alerts"][1]


def test_what_is_set_without_effect_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERMES_CELERY_NAMESAPCE", "x")
    result = CliRunner().invoke(main, ["doctor"])
    assert "HERMES_CELERY_NAMESAPCE is no setting, so it has no effect; is HERMES_CELERY_N" in (
        result.stdout
    )
    monkeypatch.setenv("HERMES_CRON_SCRIPT_TIMEOUT", "soon")
    assert "'soon' is no number of seconds" in CliRunner().invoke(main, ["doctor"]).stdout


def test_up_does_not_start_with_alerts_that_nobody_would_hear(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_CELERY_ALERTS", "garbage")
    result = CliRunner().invoke(main, ["up"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: HERMES_CELERY_ALERTS: cannot deliver to that")
