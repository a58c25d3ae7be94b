"""The command line on a project with wrong settings: one sentence, no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hermes_celery.cli import main


def refused(
    lines: str, *arguments: str, home: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Write a project of these lines and return the error that a command prints about it."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("HERMES_HOME", str(home))
    monkeypatch.delenv("HERMES_REDIS_URL", raising=False)
    imports = "from celery import Celery\nfrom hermes_celery import Cron\n"
    (home / f"{name}.py").write_text(f"{imports}{lines}\nCron(app)\n", encoding="utf-8")
    result = CliRunner().invoke(main, ["-A", name, *arguments])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    return result.stderr


def test_a_broker_with_a_bracket_in_its_password_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = refused(
        'app = Celery("shop2", broker="amqp://u:p[ss@h//", set_as_current=False)',
        "list", home=tmp_path, name="bracketed_shop", monkeypatch=monkeypatch,
    )  # fmt: skip
    assert "the app's broker, of broker_url, is amqp://u:***@h//" in text


def test_an_unknown_time_zone_is_refused(
    tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beat.json").write_text(json.dumps([]), encoding="utf-8")
    broker = valkey_url.replace("unix://", "redis+socket://")
    text = refused(
        f'app = Celery("shop2", broker="{broker}", set_as_current=False)\n'
        'app.conf.timezone = "Mars/X"',
        "import", "django-celery-beat", "beat.json",
        home=tmp_path, name="martian_shop", monkeypatch=monkeypatch,
    )  # fmt: skip
    assert "app.conf.timezone is 'Mars/X', not a time zone" in text


def test_a_broker_with_an_invalid_host_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = refused(
        'app = Celery("shop2", broker="redis://a..b/0", set_as_current=False)',
        "list", home=tmp_path, name="dotted_shop", monkeypatch=monkeypatch,
    )  # fmt: skip
    assert "broker_url cannot be read by Celery (its host is not a host name or address" in text
