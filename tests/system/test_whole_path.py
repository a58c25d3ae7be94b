"""Tests the whole path with real processes: a job in Valkey, a beat, a Celery worker, output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from hermes_celery.client import Client
from hermes_celery.core.job import Origin
from hermes_celery.core.run import DeliveryState, Run, RunState
from hermes_celery.store import Database
from tests.support import DATA, eventually, replaced
from tests.system.conftest import Processes, await_leader, await_worker, script, script_job

pytestmark = pytest.mark.system


@pytest.fixture
def worker(processes: Processes, valkey: Database) -> subprocess.Popen[bytes]:
    """Start a worker and wait until it is alive."""
    process = processes.celery("worker")
    await_worker(valkey)
    return process


@pytest.fixture
def beat(processes: Processes, valkey: Database) -> subprocess.Popen[bytes]:
    """Start a beat and wait until it leads."""
    process = processes.celery("beat")
    await_leader(valkey)
    return process


def ended(cron: Client, run_id: str) -> Run:
    """Wait until a run has finished and return it."""
    eventually(lambda: cron.runs.get(run_id).state.is_final, what=f"the end of {run_id}")
    return cron.runs.get(run_id)


@pytest.mark.usefixtures("worker", "beat")
def test_a_due_job_runs_on_a_worker_and_its_output_is_kept(cron: Client, home: Path) -> None:
    script(home, "hi.sh", 'echo "hi from $HERMES_CRON_RUN_ID"; echo note >&2')
    job = cron.add(script_job("every 1s", "hi.sh"))
    eventually(lambda: len(cron.latest_runs(state=RunState.SUCCEEDED)) >= 3, what="three runs")
    runs = cron.latest_runs(job.id, state=RunState.SUCCEEDED)
    for run in runs:
        assert cron.runs.output(run.id).decode() == f"hi from {run.id}\n"
        assert cron.runs.stderr(run.id) == b"note\n"
        assert run.started_at is not None
        assert timedelta(0) <= run.started_at - run.due_at < timedelta(seconds=5)
    assert len({run.due_at for run in runs}) == len(runs)


@pytest.mark.usefixtures("worker", "beat")
def test_a_slow_job_does_not_delay_others(cron: Client, home: Path) -> None:
    script(home, "slow.sh", "sleep 60")
    script(home, "echo.sh", "echo hi")
    slow = cron.run(cron.add(script_job("every 1h", "slow.sh")).id)
    eventually(lambda: cron.runs.get(slow).state is RunState.RUNNING, what="the slow run")
    jobs = [cron.add(script_job("in 1s", "echo.sh")) for _ in range(10)]
    eventually(
        lambda: all(cron.latest_runs(job.id, state=RunState.SUCCEEDED) for job in jobs),
        what="the ten other runs",
    )
    assert cron.runs.get(slow).state is RunState.RUNNING
    cron.cancel(slow)
    assert ended(cron, slow).state is RunState.CANCELLED


def test_a_worker_with_one_slot_performs_runs_one_after_another(
    processes: Processes, valkey: Database, cron: Client, home: Path
) -> None:
    processes.celery("worker", HERMES_CRON_MAX_WORKERS="1")
    await_worker(valkey)
    script(home, "log.sh", "echo start; sleep 0.1; echo end")
    runs = [cron.run(cron.add(script_job("every 1h", "log.sh")).id) for _ in range(4)]
    records = sorted((ended(cron, run_id) for run_id in runs), key=lambda run: str(run.started_at))
    for before, after in pairwise(records):
        assert before.finished_at is not None
        assert after.started_at is not None
        assert before.finished_at <= after.started_at


@pytest.mark.usefixtures("worker", "beat")
def test_a_real_home_runs_on_workers(processes: Processes, cron: Client, home: Path) -> None:
    for path in (DATA / "hermes-home" / "scripts").iterdir():
        # No file system of this machine is that full, so the watchdog has nothing to say.
        script(home, path.name, path.read_text(encoding="utf-8").replace("> 90 {", "> 100 {"))
    imported = processes.hermes("import", str(DATA / "hermes-home"))
    assert "10 imported, 0 already here, 0 refused" in imported.stdout
    (heartbeat,) = eventually(
        lambda: cron.latest_runs("heartbeat", state=RunState.SUCCEEDED, limit=1),
        what="the heartbeat",
    )
    assert cron.runs.output(heartbeat.id).startswith(b"alive on ")
    failed = processes.hermes("run", "weekly backup check", "--wait")
    assert failed.returncode == 3
    assert "cannot reach the build server" in failed.stderr
    silent = processes.hermes("run", "disk watchdog", "--wait", "--json")
    assert (silent.returncode, json.loads(silent.stdout)["delivery"]) == (0, DeliveryState.SILENT)
    told = processes.hermes("runs", "--json", "--state", "failed")
    names = {run["job_name"]: run for run in json.loads(told.stdout)}
    assert names["weekly backup check"]["exit_code"] == 3


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_the_session_reaches_the_script_under_every_pool(
    processes: Processes, valkey: Database, cron: Client, home: Path, pool: str
) -> None:
    processes.celery("worker", "--pool", pool, HERMES_SESSION_PLATFORM="leaked")
    await_worker(valkey)
    script(home, "who.sh", 'sleep 0.2; echo "$HERMES_SESSION_PLATFORM $HERMES_SESSION_CHAT_ID"')
    expected: dict[str, str] = {}
    for number in range(8):
        request = script_job("every 1h", "who.sh")
        origin = Origin(platform="telegram", chat_id=str(number)) if number % 2 else None
        job = cron.add(replaced(request, origin=origin))
        expected[cron.run(job.id)] = f"telegram {number}\n" if number % 2 else " \n"
    for run_id, output in expected.items():
        run = ended(cron, run_id)
        assert (run.state, run.error) == (RunState.SUCCEEDED, None)
        assert cron.runs.output(run_id).decode() == output


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_cancelling_ends_a_running_script_under_every_pool(
    processes: Processes, valkey: Database, cron: Client, home: Path, pool: str
) -> None:
    processes.celery("worker", "--pool", pool)
    await_worker(valkey)
    script(home, "slow.sh", "echo begun; sleep 600")
    run_id = cron.run(cron.add(script_job("every 1h", "slow.sh")).id)
    eventually(lambda: cron.runs.get(run_id).state is RunState.RUNNING, what="the run")
    assert cron.cancel(run_id, reason="enough") == "asked"
    run = ended(cron, run_id)
    assert (run.state, run.reason) == (RunState.CANCELLED, "enough")


def test_a_message_delivered_twice_starts_one_run(
    valkey: Database, cron: Client, home: Path, processes: Processes
) -> None:
    script(home, "count.sh", "echo x >> count")
    run_id = cron.run(cron.add(script_job("every 1h", "count.sh")).id)
    queue = valkey.keys.default_queue
    for _ in range(3):
        valkey.call("LPUSH", queue, valkey.call("LINDEX", queue, 0))
    processes.celery("worker")
    assert ended(cron, run_id).state is RunState.SUCCEEDED
    eventually(lambda: valkey.call("LLEN", queue) == 0, what="an empty queue")
    last = cron.run(cron.jobs.find("count.sh").id)
    ended(cron, last)
    assert (home / "scripts" / "count").read_text() == "x\nx\n"


def test_a_session_header_of_a_newer_version_fails_the_run_but_not_the_worker(
    valkey: Database, cron: Client, home: Path, processes: Processes
) -> None:
    script(home, "hi.sh", "echo hi")
    job = cron.add(script_job("every 1h", "hi.sh"))
    run_id = cron.run(job.id)
    queue = valkey.keys.default_queue
    message = json.loads(valkey.call("LPOP", queue))
    message["headers"]["hermes"]["version"] = 99
    valkey.call("LPUSH", queue, json.dumps(message))
    processes.celery("worker")
    run = ended(cron, run_id)
    assert run.state is RunState.FAILED
    assert "upgrade the worker" in (run.error or "")
    assert ended(cron, cron.run(job.id)).state is RunState.SUCCEEDED


@pytest.mark.usefixtures("beat")
def test_a_killed_worker_loses_its_run_and_the_job_can_run_again(
    processes: Processes, valkey: Database, cron: Client, home: Path
) -> None:
    worker = processes.celery("worker")
    await_worker(valkey)
    script(home, "slow.sh", "echo $$ > pid; sleep 600")
    job = cron.add(script_job("every 1h", "slow.sh"))
    run_id = cron.run(job.id)
    note = home / "scripts" / "pid"
    eventually(lambda: note.exists() and note.read_text().strip(), what="the script")
    os.kill(worker.pid, signal.SIGKILL)
    eventually(
        lambda: not Path(f"/proc/{note.read_text().strip()}").exists(), what="the script's exit"
    )
    eventually(
        lambda: cron.runs.get(run_id).state is RunState.LOST, seconds=30, what="the lost run"
    )
    assert "worker died" in (cron.show(job.id).last_error or "")


@pytest.mark.usefixtures("worker")
def test_a_standby_takes_over_at_once_when_the_leader_stops(
    processes: Processes, valkey: Database, cron: Client, home: Path
) -> None:
    beats = [processes.celery("beat") for _ in range(2)]
    first = await_leader(valkey)
    wake = valkey.keys.wake
    eventually(lambda: valkey.call("PUBSUB", "NUMSUB", wake)[1] == 2, what="both beats")
    leader = next(beat for beat in beats if f":{beat.pid}:" in first)
    leader.terminate()
    assert leader.wait(40) == 0
    eventually(
        lambda: valkey.call("GET", valkey.keys.lease) not in (None, first), what="another leader"
    )
    script(home, "hi.sh", "echo hi")
    job = cron.add(script_job("in 1s", "hi.sh"))
    eventually(lambda: cron.latest_runs(job.id, state=RunState.SUCCEEDED), what="the run")


def test_a_worker_with_an_embedded_beat_runs_due_jobs(
    processes: Processes, valkey: Database, cron: Client, home: Path
) -> None:
    both = processes.celery("worker", "-B")
    await_worker(valkey)
    await_leader(valkey)
    script(home, "hi.sh", "echo hi")
    job = cron.add(script_job("in 1s", "hi.sh"))
    eventually(lambda: cron.latest_runs(job.id, state=RunState.SUCCEEDED), what="the run")
    both.terminate()
    assert both.wait(20) == 0


def test_a_stopping_worker_waits_for_its_beat(processes: Processes, valkey: Database) -> None:
    both = processes.celery("worker", "-B", "-l", "INFO")
    await_worker(valkey)
    # The leader's name is HOST:PID:TEXT.
    beat = int(await_leader(valkey).rsplit(":", 2)[1])
    os.kill(beat, signal.SIGSTOP)
    both.terminate()
    eventually(lambda: "beat: Shutting down" in processes.log(both), what="the worker's end")
    with pytest.raises(subprocess.TimeoutExpired):
        both.wait(3)
    os.kill(beat, signal.SIGCONT)
    assert both.wait(20) == 0
    assert valkey.call("GET", valkey.keys.lease) is None, "the beat did not release its lease"


def test_a_warm_shutdown_cancels_a_running_job_after_the_grace_period(
    processes: Processes, valkey: Database, cron: Client, home: Path
) -> None:
    worker = processes.celery("worker", HERMES_CELERY_GRACE="1")
    await_worker(valkey)
    script(home, "slow.sh", "sleep 600")
    run_id = cron.run(cron.add(script_job("every 1h", "slow.sh")).id)
    eventually(lambda: cron.runs.get(run_id).state is RunState.RUNNING, what="the run")
    worker.terminate()
    assert worker.wait(20) == 0
    run = cron.runs.get(run_id)
    assert (run.state, run.reason) == (RunState.CANCELLED, "its worker shut down")


def test_an_invalid_setting_is_an_error_of_one_sentence(processes: Processes) -> None:
    process = processes.celery("worker", HERMES_CRON_MAX_WORKERS="0")
    assert process.wait(30) != 0
    log = processes.log(process)
    assert "HERMES_CRON_MAX_WORKERS: '0' must be a whole number of at least 1" in log
    assert "Traceback" not in log


def test_a_worker_refuses_to_start_with_an_impossible_alert_target(processes: Processes) -> None:
    process = processes.celery("worker", HERMES_CELERY_ALERTS="garbage")
    assert process.wait(30) == 1
    log = processes.log(process)
    assert "Error: HERMES_CELERY_ALERTS: cannot deliver to that: 'garbage' is neither" in log
    assert "Traceback" not in log
