"""`doctor` prints one line per check, with the remedy if the check fails."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from hermes_celery.cli import main
from hermes_celery.store import Database


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


def test_every_check_passes_on_a_complete_installation(
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
    assert found["scripts"][1].endswith("scripts, 1 file")


def test_failed_checks_name_their_remedies(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    found = findings(exit_code=1)
    assert found["server"][0] == "fail"
    assert "start `hermes-celery up`" in found["server"][1]
    assert found["agent"][0] == "warn"
    assert "pip install hermes-agent" in found["agent"][1]
    assert found["scripts"][0] == "warn"


def test_a_missing_beat_and_a_missing_worker_are_failures(
    home: Path, valkey_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_REDIS_URL", valkey_url)
    monkeypatch.setenv("HERMES_CELERY_NAMESPACE", namespace)
    found = findings(exit_code=1)
    assert (found["beat"][0], found["workers"][0]) == ("fail", "fail")


def test_all_invalid_settings_are_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERMES_CELERY_SESSION", "mine")
    monkeypatch.setenv("HERMES_CELERY_INTERPRETERS", "bin")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert result.stdout.count("fail  settings") == 2


@pytest.mark.parametrize(
    ("alerts", "verdict", "why"),
    [
        ("local", "ok", "kept here only"),
        ("json://example.com/secret", "ok", "sent to json://***"),
        ("garbage", "fail", "HERMES_CELERY_ALERTS: cannot deliver to that: 'garbage' is neither"),
        ("nonsense://x", "fail", "HERMES_CELERY_ALERTS: cannot deliver to that"),
        ("origin", "fail", "alerts belong to no job and so have no origin"),
        ("telegram", "fail", "HERMES_CELERY_ALERTS: telegram has no target on this machine"),
    ],
)
def test_the_target_of_alerts_is_checked(
    home: Path, monkeypatch: pytest.MonkeyPatch, alerts: str, verdict: str, why: str
) -> None:
    monkeypatch.setenv("HERMES_CELERY_ALERTS", alerts)
    found = findings(exit_code=1)
    assert found["alerts"][0] == verdict
    assert why in found["alerts"][1]


def test_settings_without_effect_are_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERMES_CELERY_NAMESAPCE", "x")
    result = CliRunner().invoke(main, ["doctor"])
    told = "HERMES_CELERY_NAMESAPCE is not a setting, so it has no effect; did you mean HERMES_"
    assert told in result.stdout
    monkeypatch.setenv("HERMES_CRON_SCRIPT_TIMEOUT", "soon")
    assert "'soon' is not a number of seconds" in CliRunner().invoke(main, ["doctor"]).stdout


def test_up_does_not_start_with_an_invalid_target_of_alerts(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_CELERY_ALERTS", "garbage")
    result = CliRunner().invoke(main, ["up"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: HERMES_CELERY_ALERTS: cannot deliver to that")
