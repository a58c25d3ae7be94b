"""Hooks on Celery's global signals act for their own app only."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import pytest
from celery import Celery

from hermes_celery.celery_app.worker_hooks import _Hooks
from hermes_celery.settings import read_settings
from hermes_celery.wiring.own_app import make_app

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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this signal")
def test_a_solo_worker_does_not_bind_its_process_to_the_parent() -> None:
    hooks = _Hooks(make_app(read_settings(_NOWHERE)))
    before = _death_signal()
    # The pool `solo` calls this hook in the worker's own process, also under Celery's test tools.
    hooks.on_pool_process_init()
    assert _death_signal() == before


def _death_signal() -> int:
    """Return the signal for this process when its parent dies (PR_GET_PDEATHSIG)."""
    found = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(found))
    return found.value
