"""Tests that Flower shows each run's outcome and name, and deliveries under names of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from hermes_celery.core.run import Run, RunState
from tests.projects.bed import Bed
from tests.redis_servers import free_port
from tests.support import eventually

pytestmark = pytest.mark.system
pytest.importorskip("flower", reason="the extra `flower` is not installed")

_SCRIPTS = {
    "ok.sh": "echo fine",
    "full.sh": "echo working; echo 'token sk-ant-api03-abcdefghijklmnopqrstuvwxyz' >&2; "
    "echo 'no space left' >&2; exit 3",
    "slow.sh": "echo begun; sleep 60",
    "secret.sh": 'echo "cannot log in with $SHOP_TOKEN" >&2; exit 4',
}


class Flower:
    """Runs a Flower that monitors a bed's workers."""

    def __init__(self, bed: Bed) -> None:
        self.port = free_port()
        self.process = bed.celery(
            "flower", "--address=127.0.0.1", f"--port={self.port}", "--read_only=True",
            FLOWER_UNAUTHENTICATED_API="true",
        )  # fmt: skip
        eventually(lambda: self._answers(), seconds=30, what="an answer of Flower")

    def _answers(self) -> bool:
        try:
            self.get("/healthcheck")
        except OSError:
            return False
        return True

    def get(self, path: str) -> bytes:
        """Return the body of Flower's answer."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return bytes(answer.read())

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return all tasks that Flower shows, by id."""
        shown: dict[str, dict[str, Any]] = json.loads(self.get("/api/tasks?limit=1000"))
        return shown

    def task(self, task_id: str, state: str) -> dict[str, Any]:
        """Wait until Flower shows a task in that state and return the task."""
        return eventually(
            lambda: self._in_state(task_id, state), seconds=30, what=f"{task_id} as {state}"
        )

    def _in_state(self, task_id: str, state: str) -> dict[str, Any]:
        shown = self.tasks().get(task_id, {})
        return shown if shown.get("state") == state else {}


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with Bed("watched", tmp_path_factory.mktemp("watched")) as bed:
        for name, text in _SCRIPTS.items():
            (bed.home / "scripts" / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        yield bed


@pytest.fixture(scope="module")
def flower(bed: Bed) -> Flower:
    flower = Flower(bed)
    bed.environment["SHOP_TOKEN"] = "tok-0123456789abcdef0123456789abcdef"
    bed.environment["HERMES_CRON_ENV_PASSTHROUGH"] = "SHOP_TOKEN"
    bed.up("-c", "4", "-E")
    return flower


def run_of(bed: Bed, job: str) -> Run:
    """Run a job with a command that does not load the app; return its newest run."""
    asked = bed.hermes("run", job)
    assert asked.returncode == 0, asked.stderr
    return bed.runs(job)[0]


def ended(bed: Bed, job: str, run: Run, state: RunState) -> Run:
    return bed.await_run(job, lambda one: one.id == run.id and one.state is state)


def has_no_traceback(shown: dict[str, Any]) -> bool:
    return not shown["traceback"]


def test_a_successful_run_is_a_success_under_the_jobs_name(bed: Bed, flower: Flower) -> None:
    for job in ("script succeeds", "nightly report", "late report"):
        run = run_of(bed, job)
        assert flower.task(run.id, "SUCCESS")["name"] == job


def test_a_task_with_a_shadow_name_keeps_it(bed: Bed, flower: Flower) -> None:
    for job, shown in (("named report", "own name of c1"), ("asked report", "asked name")):
        run = run_of(bed, job)
        assert flower.task(run.id, "SUCCESS")["name"] == shown


def test_a_failed_script_shows_its_exit_code_and_its_delivery_has_a_name_of_its_own(
    bed: Bed, flower: Flower
) -> None:
    run = run_of(bed, "script fails")
    shown = flower.task(run.id, "FAILURE")
    assert shown["name"] == "script fails"
    assert shown["exception"] == "exit code 3: no space left"
    assert has_no_traceback(shown)

    delivery = flower.task(f"deliver-{run.id}", "SUCCESS")
    assert delivery["name"] == "deliver: script fails"
    counted = flower.get("/metrics").decode()
    assert 'task="deliver: script fails",type="task-succeeded"' in counted
    assert 'task="script fails",type="task-succeeded"' not in counted


def test_a_secret_in_the_error_is_masked(bed: Bed, flower: Flower) -> None:
    run = run_of(bed, "script knows a secret")
    shown = flower.task(run.id, "FAILURE")
    assert "exit code 4: cannot log in with" in shown["exception"]
    assert "tok-0123" not in json.dumps(shown)


def test_a_failed_task_of_the_project_shows_its_own_exception(bed: Bed, flower: Flower) -> None:
    run = run_of(bed, "bad report")
    shown = flower.task(run.id, "FAILURE")
    assert shown["name"] == "bad report"
    assert shown["exception"] == "ValueError('no such customer')"
    # Of the package's own lines only those that raise it again are in the traceback.
    assert "in bad" in shown["traceback"]
    assert shown["traceback"].count("user_tasks.py") == 2


def test_a_timed_out_run_is_a_failure_that_names_the_timeout(bed: Bed, flower: Flower) -> None:
    run = run_of(bed, "script hangs")
    shown = flower.task(run.id, "FAILURE")
    assert "timed out after 1s" in shown["exception"]
    assert has_no_traceback(shown)
    run = run_of(bed, "task hangs")
    assert "SoftTimeLimitExceeded" in flower.task(run.id, "FAILURE")["exception"]


def test_a_cancelled_script_is_revoked(bed: Bed, flower: Flower) -> None:
    run = run_of(bed, "script is cancelled")
    flower.task(run.id, "STARTED")
    ended(bed, "script is cancelled", run, RunState.RUNNING)
    assert bed.hermes("cancel", run.id).returncode == 0
    shown = flower.task(run.id, "REVOKED")
    assert shown["name"] == "script is cancelled"
    assert "cancelled" in shown["exception"]


def test_a_cancelled_task_is_revoked(bed: Bed, flower: Flower) -> None:
    run = run_of(bed, "task waits")
    bed.await_notes("endless")
    ended(bed, "task waits", run, RunState.RUNNING)
    assert bed.hermes("cancel", run.id).returncode == 0
    assert flower.task(run.id, "REVOKED")["exception"] == "cancelled"
    ended(bed, "task waits", run, RunState.CANCELLED)


def test_a_retried_run_is_a_retry_and_then_its_last_outcome(bed: Bed, flower: Flower) -> None:
    run = run_of(bed, "script is tried again")
    shown = flower.task(run.id, "RETRY")
    assert shown["exception"] == "exit code 3: no space left"
    assert has_no_traceback(shown)
    ended(bed, "script is tried again", run, RunState.FAILED)
    last = eventually(
        lambda: [
            one["name"]
            for key, one in flower.tasks().items()
            if key.startswith(run.id) and one["state"] == "FAILURE"
        ],
        what="the last attempt as a failure",
    )
    assert last == ["script is tried again"]


def test_a_lost_run_is_a_failure_that_says_it_was_lost(bed: Bed, flower: Flower) -> None:
    doomed = bed.worker("-n", "doomed@%h", "-Q", "doomed", "-c", "1", "-E")
    bed.await_worker(2)
    run = run_of(bed, "script is lost")
    flower.task(run.id, "STARTED")
    ended(bed, "script is lost", run, RunState.RUNNING)
    os.killpg(doomed.pid, signal.SIGKILL)
    ended(bed, "script is lost", run, RunState.LOST)
    shown = flower.task(run.id, "FAILURE")
    assert shown["name"] == "script is lost"
    assert shown["exception"].startswith("lost: the worker died or was cut off")


def test_a_read_only_flower_refuses_to_shut_down_a_worker(bed: Bed, flower: Flower) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", "import sys, urllib.request as r; r.urlopen("
         f"r.Request('http://127.0.0.1:{flower.port}/api/worker/shutdown/x', method='POST'))"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "403" in asked.stderr
