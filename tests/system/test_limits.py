"""Tests live output, resource limits, queues, priorities and groups with real workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hermes_celery.client import Client
from hermes_celery.core.job import JobRequest
from hermes_celery.core.run import Run, RunState
from hermes_celery.store import Database
from tests.support import eventually, replaced
from tests.system.conftest import Processes, await_leader, await_worker, script, script_job

pytestmark = pytest.mark.system


def ended(cron: Client, run_id: str) -> Run:
    eventually(lambda: cron.runs.get(run_id).state.is_final, seconds=40, what=f"end of {run_id}")
    return cron.runs.get(run_id)


def begun(cron: Client, request: JobRequest) -> str:
    """Add a job, start a run of it, and return the run id."""
    # The interpreter need not exist here, only on the worker.
    return cron.run(cron.add(request, check_files=request.interpreter is None).id)


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_output_can_be_followed_line_by_line_during_the_run(
    processes: Processes, valkey: Database, cron: Client, home: Path, pool: str
) -> None:
    processes.celery("worker", "--pool", pool)
    await_worker(valkey)
    script(
        home,
        "talk.sh",
        'echo one; echo "token=ghp_A1b2C3d4E5f6G7h8I9j0"; echo note >&2; printf half\n'
        'while [ ! -e go ]; do sleep 0.05; done; echo " done"',
    )
    run_id = begun(cron, script_job("every 1h", "talk.sh"))
    follower = subprocess.Popen(
        [sys.executable, "-m", "hermes_celery", "logs", "-f", run_id],
        env=processes.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    eventually(lambda: cron.runs.output(run_id) == b"one\ntoken=***\n", what="the first lines")
    assert cron.runs.stderr(run_id) == b"note\n"
    assert cron.runs.get(run_id).state is RunState.RUNNING
    (home / "scripts" / "go").touch()
    stdout, stderr = follower.communicate(timeout=30)
    assert stdout == b"one\ntoken=***\nhalf done\n"
    assert stderr.decode().splitlines() == ["note", "talk.sh: succeeded"]
    assert cron.runs.output(run_id) == stdout


def test_a_script_runs_with_its_own_limits_and_interpreter(
    processes: Processes, valkey: Database, cron: Client, home: Path, tmp_path: Path
) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "talker").write_text('#!/bin/sh\necho "talker runs $(basename $1)"\n')
    (allowed / "talker").chmod(0o755)
    processes.celery("worker", HERMES_CELERY_INTERPRETERS=str(allowed))
    await_worker(valkey)
    script(home, "slow.sh", "echo begun; sleep 600")
    request = script_job("every 1h", "slow.sh")
    late = ended(cron, begun(cron, replaced(request, timeout_seconds=0.5)))
    assert late.state is RunState.TIMED_OUT
    assert "timed out after 0.5s" in (late.error or "")
    idle = ended(cron, begun(cron, replaced(request, idle_timeout_seconds=0.5)))
    assert idle.state is RunState.TIMED_OUT
    assert "printed nothing for 0.5s" in (idle.error or "")
    spoken = ended(cron, begun(cron, replaced(request, interpreter="talker")))
    assert cron.runs.output(spoken.id) == b"talker runs slow.sh\n"
    for program in ("bash", "/bin/sh"):
        refused = ended(cron, begun(cron, replaced(request, interpreter=program)))
        assert refused.state is RunState.FAILED
        assert "not in a directory that this machine allows" in (refused.error or "")


def test_a_run_goes_to_the_worker_that_consumes_its_jobs_queue(
    processes: Processes, valkey: Database, cron: Client, home: Path, namespace: str
) -> None:
    processes.celery("worker", "-n", "plain@%h")
    processes.celery("worker", "-n", "gpu@%h", "-Q", f"{namespace}-gpu")
    await_worker(valkey, count=2)
    script(home, "hi.sh", "echo hi")
    request = script_job("every 1h", "hi.sh")
    on_gpu = ended(cron, begun(cron, replaced(request, queue=f"{namespace}-gpu")))
    assert (on_gpu.worker or "").startswith("gpu@")
    assert (ended(cron, begun(cron, request)).worker or "").startswith("plain@")


def test_a_run_of_higher_priority_is_taken_first(
    processes: Processes, valkey: Database, cron: Client, home: Path
) -> None:
    script(home, "note.sh", 'echo "$HERMES_CRON_JOB_ID" >> order')
    request = script_job("every 1h", "note.sh")
    jobs = [cron.add(replaced(request, priority=priority)) for priority in (9, 6, 3, 0)]
    runs = [cron.run(job.id) for job in jobs]
    processes.celery("worker", HERMES_CRON_MAX_WORKERS="1")
    for run_id in runs:
        ended(cron, run_id)
    assert (home / "scripts" / "order").read_text().split() == [job.id for job in reversed(jobs)]


def test_runs_of_a_full_group_wait_without_a_slot_and_run_later(
    processes: Processes, valkey: Database, cron: Client, home: Path
) -> None:
    processes.celery("worker", HERMES_CRON_MAX_WORKERS="4")
    processes.celery("beat")
    await_worker(valkey)
    await_leader(valkey)
    script(home, "hold.sh", "while [ ! -e go ]; do sleep 0.05; done; echo done")
    script(home, "hi.sh", "echo hi")
    holding = replaced(script_job("every 1h", "hold.sh"), group="gpu", group_limit=2)
    runs = [begun(cron, holding) for _ in range(6)]

    def states() -> list[RunState]:
        return [cron.runs.get(run_id).state for run_id in runs]

    eventually(lambda: states().count(RunState.RUNNING) == 2, what="two running runs")
    # The four others hold no slot, so another job runs at once.
    assert ended(cron, begun(cron, script_job("every 1h", "hi.sh"))).state is RunState.SUCCEEDED
    assert states().count(RunState.RUNNING) == 2
    assert states().count(RunState.QUEUED) == 4
    (home / "scripts" / "go").touch()
    for run_id in runs:
        run = ended(cron, run_id)
        assert (run.state, run.error, run.attempt) == (RunState.SUCCEEDED, None, 1)
    assert valkey.call("ZCARD", valkey.keys.group("gpu")) == 0
