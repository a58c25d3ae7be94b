"""Tests with two beats: when the leader is killed, frozen or stopped, the standby takes over."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from hermes_celery.client import Client
from hermes_celery.core.run import Run, RunState
from hermes_celery.store import Database
from tests.support import eventually
from tests.system.conftest import Processes, await_leader, await_worker, script, script_job

pytestmark = pytest.mark.system


@pytest.fixture
def beats(processes: Processes, valkey: Database) -> list[subprocess.Popen[bytes]]:
    """Start two beats and return them, the leader first."""
    pair = [processes.celery("beat") for _ in range(2)]
    leader = await_leader(valkey)
    wake = valkey.keys.wake
    eventually(lambda: valkey.call("PUBSUB", "NUMSUB", wake)[1] == 2, what="both beats")
    return sorted(pair, key=lambda beat: f":{beat.pid}:" not in leader)


def ticking(cron: Client, home: Path) -> str:
    """Add a job that runs every second and records each start; return its id."""
    script(home, "note.sh", 'echo "$HERMES_CRON_RUN_ID" >> starts')
    return cron.add(script_job("every 1s", "note.sh")).id


def succeeded(cron: Client, job_id: str) -> list[Run]:
    return cron.latest_runs(job_id, state=RunState.SUCCEEDED, limit=1000)


def another_leads(valkey: Database, old: subprocess.Popen[bytes]) -> bool:
    leader = valkey.call("GET", valkey.keys.lease)
    return leader is not None and f":{old.pid}:" not in leader


def gaps(runs: list[Run]) -> list[timedelta]:
    """Return the intervals between the due times of consecutive runs."""
    instants = sorted(run.due_at for run in runs)
    return [later - earlier for earlier, later in pairwise(instants)]


def no_run_started_twice(home: Path) -> bool:
    starts = (home / "scripts" / "starts").read_text().split()
    return max(Counter(starts).values()) == 1


def test_a_killed_leader_is_replaced_within_one_lease(
    processes: Processes,
    valkey: Database,
    cron: Client,
    home: Path,
    beats: list[subprocess.Popen[bytes]],
) -> None:
    processes.celery("worker")
    await_worker(valkey)
    job_id = ticking(cron, home)
    eventually(lambda: len(succeeded(cron, job_id)) >= 2, what="two runs")
    os.kill(beats[0].pid, signal.SIGKILL)
    eventually(lambda: another_leads(valkey, beats[0]), what="another leader")
    seen = len(succeeded(cron, job_id))
    eventually(lambda: len(succeeded(cron, job_id)) >= seen + 2, what="two more runs")
    assert no_run_started_twice(home)
    # A lease lasts 0.9 s, so at most one occurrence waits for it to expire.
    assert max(gaps(cron.latest_runs(job_id, limit=1000))) <= timedelta(seconds=1)


def test_a_leader_frozen_past_its_term_changes_nothing_when_it_wakes(
    processes: Processes,
    valkey: Database,
    cron: Client,
    home: Path,
    beats: list[subprocess.Popen[bytes]],
) -> None:
    processes.celery("worker")
    await_worker(valkey)
    job_id = ticking(cron, home)
    eventually(lambda: succeeded(cron, job_id), what="a run")
    term = int(valkey.call("GET", valkey.keys.term))
    os.kill(beats[0].pid, signal.SIGSTOP)
    eventually(lambda: another_leads(valkey, beats[0]), what="another leader")
    seen = len(succeeded(cron, job_id))
    os.kill(beats[0].pid, signal.SIGCONT)
    eventually(lambda: len(succeeded(cron, job_id)) >= seen + 2, what="two more runs")
    assert int(valkey.call("GET", valkey.keys.term)) == term + 1
    assert another_leads(valkey, beats[0])
    assert no_run_started_twice(home)


def test_every_occurrence_has_its_record_whatever_happens_to_beats(
    processes: Processes,
    valkey: Database,
    cron: Client,
    home: Path,
    beats: list[subprocess.Popen[bytes]],
) -> None:
    processes.celery("worker")
    await_worker(valkey)
    job_id = ticking(cron, home)
    for round_number in range(3):
        old = beats[-1] if round_number else beats[0]
        eventually(lambda: len(succeeded(cron, job_id)) > 2, what="some runs")
        os.kill(old.pid, signal.SIGKILL)
        beats.append(processes.celery("beat"))
        await_leader(valkey)
    count = len(cron.latest_runs(job_id, limit=1000))
    eventually(lambda: len(cron.latest_runs(job_id, limit=1000)) > count, what="a new record")
    runs = cron.latest_runs(job_id, limit=1000)
    spans = [run.reason for run in runs if (run.reason or "").startswith("missed")]
    if not spans:
        assert set(gaps(runs)) == {timedelta(seconds=1)}
    assert no_run_started_twice(home)
