"""Flower, as people start it, shows how each run ended, and deliveries as what they are."""

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
    """A Flower of its own that shows a bed's workers."""

    def __init__(self, bed: Bed) -> None:
        self.port = free_port()
        self.process = bed.celery(
            "flower", "--address=127.0.0.1", f"--port={self.port}", "--read_only=True",
            FLOWER_UNAUTHENTICATED_API="true",
        )  # fmt: skip
        eventually(lambda: self._answers(), seconds=30, what="Flower answers")

    def _answers(self) -> bool:
        try:
            self.get("/healthcheck")
        except OSError:
            return False
        return True

    def get(self, path: str) -> bytes:
        """What Flower answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return bytes(answer.read())

    def tasks(self) -> dict[str, dict[str, Any]]:
        """All tasks that it shows, by their ids."""
        shown: dict[str, dict[str, Any]] = json.loads(self.get("/api/tasks?limit=1000"))
        return shown

    def task(self, task_id: str, state: str) -> dict[str, Any]:
        """Wait until it shows a task in that state."""
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
    """Run a job now, the app not being at hand; its newest run."""
    asked = bed.hermes("run", job)
    assert asked.returncode == 0, asked.stderr
    return bed.runs(job)[0]


def ended(bed: Bed, job: str, run: Run, state: RunState) -> Run:
    return bed.await_run(job, lambda one: one.id == run.id and one.state is state)


def without_ours(shown: dict[str, Any]) -> bool:
    return not shown["traceback"]


def test_a_success_is_one_under_the_jobs_name(bed: Bed, flower: Flower) -> None:
    for job in ("script succeeds", "nightly report", "late report"):
        run = run_of(bed, job)
        assert flower.task(run.id, "SUCCESS")["name"] == job


def test_a_task_that_names_itself_keeps_its_name(bed: Bed, flower: Flower) -> None:
    for job, shown in (("named report", "own name of c1"), ("asked report", "asked name")):
        run = run_of(bed, job)
        assert flower.task(run.id, "SUCCESS")["name"] == shown


def test_a_failure_is_its_exit_code_and_last_line_and_its_delivery_is_no_success_of_the_job(
    bed: Bed, flower: Flower
) -> None:
    run = run_of(bed, "script fails")
    shown = flower.task(run.id, "FAILURE")
    assert shown["name"] == "script fails"
    assert shown["exception"] == "exit code 3: no space left"
    assert without_ours(shown)

    delivery = flower.task(f"deliver-{run.id}", "SUCCESS")
    assert delivery["name"] == "deliver: script fails"
    counted = flower.get("/metrics").decode()
    assert 'task="deliver: script fails",type="task-succeeded"' in counted
    assert 'task="script fails",type="task-succeeded"' not in counted


def test_a_secret_stays_out_of_the_text(bed: Bed, flower: Flower) -> None:
    run = run_of(bed, "script knows a secret")
    shown = flower.task(run.id, "FAILURE")
    assert "exit code 4: cannot log in with" in shown["exception"]
    assert "tok-0123" not in json.dumps(shown)


def test_a_failed_task_of_the_project_has_its_own_text(bed: Bed, flower: Flower) -> None:
    run = run_of(bed, "bad report")
    shown = flower.task(run.id, "FAILURE")
    assert shown["name"] == "bad report"
    assert shown["exception"] == "ValueError('no such customer')"
    # Between Celery and the project's code stand the lines that raise it again, and no others.
    assert "in bad" in shown["traceback"]
    assert shown["traceback"].count("user_tasks.py") == 2


def test_a_time_out_is_a_failure_that_says_so(bed: Bed, flower: Flower) -> None:
    run = run_of(bed, "script hangs")
    shown = flower.task(run.id, "FAILURE")
    assert "timed out after 1s" in shown["exception"]
    assert without_ours(shown)
    run = run_of(bed, "task hangs")
    assert "SoftTimeLimitExceeded" in flower.task(run.id, "FAILURE")["exception"]


def test_what_was_cancelled_is_revoked_and_no_success(bed: Bed, flower: Flower) -> None:
    run = run_of(bed, "script is cancelled")
    flower.task(run.id, "STARTED")
    ended(bed, "script is cancelled", run, RunState.RUNNING)
    assert bed.hermes("cancel", run.id).returncode == 0
    shown = flower.task(run.id, "REVOKED")
    assert shown["name"] == "script is cancelled"
    assert "cancelled" in shown["exception"]


def test_a_task_that_was_cancelled_is_revoked(bed: Bed, flower: Flower) -> None:
    run = run_of(bed, "task waits")
    bed.await_notes("endless")
    ended(bed, "task waits", run, RunState.RUNNING)
    assert bed.hermes("cancel", run.id).returncode == 0
    assert flower.task(run.id, "REVOKED")["exception"] == "cancelled"
    ended(bed, "task waits", run, RunState.CANCELLED)


def test_what_is_tried_again_is_a_retry_and_then_what_it_becomes(bed: Bed, flower: Flower) -> None:
    run = run_of(bed, "script is tried again")
    shown = flower.task(run.id, "RETRY")
    assert shown["exception"] == "exit code 3: no space left"
    assert without_ours(shown)
    ended(bed, "script is tried again", run, RunState.FAILED)
    last = eventually(
        lambda: [
            one["name"]
            for key, one in flower.tasks().items()
            if key.startswith(run.id) and one["state"] == "FAILURE"
        ],
        what="its last attempt as a failure",
    )
    assert last == ["script is tried again"]


def test_what_is_lost_is_a_failure_that_says_so(bed: Bed, flower: Flower) -> None:
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


def test_flower_that_only_shows_refuses_what_changes_something(bed: Bed, flower: Flower) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", "import sys, urllib.request as r; r.urlopen("
         f"r.Request('http://127.0.0.1:{flower.port}/api/worker/shutdown/x', method='POST'))"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "403" in asked.stderr
