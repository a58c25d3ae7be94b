"""Celery's signals are global: one app's processes are no other app's business."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from celery import Celery

from hermes_celery.app import make_app
from hermes_celery.settings import read_settings
from hermes_celery.tasks import _Hooks

_NOWHERE = {"HERMES_REDIS_URL": "redis://127.0.0.1:1/0"}


def test_the_server_is_checked_for_the_apps_own_processes_only(
    capfd: pytest.CaptureFixture[str],
) -> None:
    app = make_app(read_settings(_NOWHERE))
    app.conf.broker_connection_retry_on_startup = False
    hooks, other = _Hooks(app), Celery("other")
    hooks.on_worker_init("celery@host", instance=SimpleNamespace(app=other))
    hooks.on_beat_init(SimpleNamespace(app=other))
    hooks.on_worker_ready()
    assert capfd.readouterr().err == ""
    with pytest.raises(SystemExit):
        hooks.on_worker_init("celery@host", instance=SimpleNamespace(app=app))
    with pytest.raises(SystemExit):
        hooks.on_beat_init(SimpleNamespace(app=app))
    assert "no Redis at redis://127.0.0.1:1/0" in capfd.readouterr().err
