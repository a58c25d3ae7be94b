"""The command line on data of a newer version: it reads with a warning and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hermes_celery.celery_app.worker_hooks import _Hooks
from hermes_celery.cli import main
from hermes_celery.settings import read_settings
from hermes_celery.store import FORMAT, Database, Jobs
from hermes_celery.wiring.own_app import make_app
from tests.support import a_job

READING = (
    "list",
    "show daily",
    "runs",
    "logs daily",
    "status",
    "incidents",
    "shards",
    "fsck",
)
WRITING = (
    "add 5m hello",
    "import .",
    "edit daily --name y",
    "pause daily",
    "pause --all",
    "resume daily",
    "resume --all",
    "remove daily",
    "run daily",
    "backfill daily --from 2026-06-01T00:00:00Z",
    "redeliver aaaaaaaaaaaa.2026-06-22T12:00:00Z",
    "incidents ack abc",
    "cancel aaaaaaaaaaaa.2026-06-22T12:00:00Z",
    "tick",
    "shards 2",
    "fsck --repair",
    "up",
)


@pytest.fixture
def home(
    tmp_path: Path, valkey_url: str, valkey: Database, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Return a home whose namespace holds one job with one queued run."""
    (tmp_path / "scripts").mkdir()
    for name, value in {
        "HERMES_HOME": str(tmp_path),
        "HERMES_REDIS_URL": valkey_url,
        "HERMES_CELERY_NAMESPACE": valkey.keys.namespace,
    }.items():
        monkeypatch.setenv(name, value)
    Jobs(valkey).add(a_job(name="daily"))
    assert typed("run daily").exit_code == 0
    return tmp_path


def typed(line: str) -> Result:
    return CliRunner().invoke(main, line.split())


def all_keys(database: Database) -> dict[str, object]:
    """Return every stored value, byte for byte."""
    names = sorted(database.call("KEYS", database.keys.prefix + "*"))
    return {name: database.raw("DUMP", name) for name in names}


def written_by_a_newer_program(database: Database, *, needs: int) -> None:
    text = json.dumps({"format": 9, "needs": needs, "program": "9.0"})
    database.call("SET", database.keys.format, text)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("line", READING)
def test_reading_commands_work_with_a_warning(
    valkey: Database, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert typed(line).exit_code == 0
    assert not caplog.records
    written_by_a_newer_program(valkey, needs=FORMAT + 1)
    result = typed(line)
    assert result.exit_code == 0, result.output
    assert "upgrade hermes-celery on this machine" in caplog.text


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("line", WRITING)
def test_writing_commands_are_refused_and_change_nothing(valkey: Database, line: str) -> None:
    written_by_a_newer_program(valkey, needs=FORMAT + 1)
    before = all_keys(valkey)
    result = typed(line)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: what is stored in namespace ")
    assert f"needs a program that reads format {FORMAT + 1}, as hermes-celery 9.0" in result.stderr
    assert all_keys(valkey) == before


@pytest.mark.usefixtures("home")
def test_a_repair_keeps_records_of_newer_programs(valkey: Database) -> None:
    key = valkey.keys.job(a_job().id)
    spec = json.loads(valkey.call("HGET", key, "spec"))
    newer = json.dumps(spec | {"needs": FORMAT + 1, "prompt": {"of": "another shape"}})
    valkey.call("HSET", key, "spec", newer)
    before = valkey.call("HGETALL", key)
    typed("fsck --repair")
    assert valkey.call("HGETALL", key) == before


@pytest.mark.usefixtures("home")
def test_writing_works_if_the_newer_format_still_allows_it(valkey: Database) -> None:
    written_by_a_newer_program(valkey, needs=FORMAT)
    assert typed("pause daily").exit_code == 0


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("line", ["list", "pause daily"])
def test_an_unreadable_format_is_logged_and_stops_no_command(
    valkey: Database, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    valkey.call("RPUSH", valkey.keys.format, "x")
    assert typed(line).exit_code == 0
    assert "is a list, not a string" in caplog.text


@pytest.mark.usefixtures("home")
def test_beats_and_workers_do_not_start_on_a_newer_format(
    valkey: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    hooks = _Hooks(make_app(read_settings()))
    hooks._check_server()
    written_by_a_newer_program(valkey, needs=FORMAT + 1)
    with pytest.raises(SystemExit) as exit:
        hooks._check_server()
    assert exit.value.code == 1
    assert capfd.readouterr().err.startswith("Error: what is stored in namespace ")


@pytest.mark.usefixtures("home")
def test_doctor_shows_the_stored_format_and_older_programs(valkey: Database) -> None:
    def format_finding() -> tuple[str, str]:
        rows = json.loads(typed("doctor --json").stdout)
        (row,) = [row for row in rows if row["check"] == "format"]
        return row["verdict"], row["text"]

    assert format_finding() == ("ok", f"1 is stored, this program writes {FORMAT}")
    valkey.call("ZADD", valkey.keys.workers, valkey.now_ms(), "celery@old:1")
    assert format_finding()[1].endswith("; older programs: worker celery@old:1")
    valkey.call("SET", valkey.keys.format, json.dumps({"format": 2, "to": 3, "cursor": "x"}))
    assert format_finding()[1].startswith(
        f"2 is stored, this program writes {FORMAT}; a migration to 3 is under way"
    )
    written_by_a_newer_program(valkey, needs=FORMAT + 1)
    assert format_finding()[0] == "fail"
    assert "upgrade hermes-celery" in format_finding()[1]
    valkey.call("SET", valkey.keys.format, "junk")
    assert format_finding()[0] == "fail"
    assert "holds 'junk', not a stored format" in format_finding()[1]
