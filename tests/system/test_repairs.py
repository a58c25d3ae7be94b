"""Tests that a running beat repairs spoilt records, resumes the jobs and records incidents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hermes_celery.cli.fsck import examine
from hermes_celery.client import Client
from hermes_celery.core.incidents import TroubleKind
from hermes_celery.core.policy import Overlap, Policy
from hermes_celery.core.run import RunState
from hermes_celery.core.server_address import BrokerNames
from hermes_celery.store import Database, Incidents
from tests.support import eventually, replaced
from tests.system.conftest import Processes, await_leader, await_worker, script, script_job

pytestmark = pytest.mark.system


def _active(database: Database, job_id: str) -> None:
    database.call("DEL", database.keys.active(job_id))
    database.call("SET", database.keys.active(job_id), "x")


def _due_entry(database: Database, job_id: str) -> None:
    database.call("ZREM", database.keys.due, job_id)


def _next_instant(database: Database, job_id: str) -> None:
    database.call("HDEL", database.keys.job(job_id), "next_ms")
    database.call("ZREM", database.keys.due, job_id)


def test_jobs_with_spoilt_records_run_again_and_have_incidents(
    processes: Processes, valkey: Database, cron: Client, home: Path
) -> None:
    processes.celery("worker")
    processes.celery("beat")
    await_worker(valkey)
    await_leader(valkey)
    script(home, "hi.sh", "echo hi")
    spoil: dict[str, Callable[[Database, str], None]] = {
        "active": _active,
        "due": _due_entry,
        "next": _next_instant,
    }
    jobs = {name: cron.add(script_job("every 1s", "hi.sh")).id for name in (*spoil, "healthy")}

    def count(name: str) -> int:
        return len(cron.latest_runs(jobs[name], state=RunState.SUCCEEDED, limit=1000))

    eventually(lambda: all(count(name) for name in jobs), what="a run of each job")
    # A leader checks all records a few seconds after it took over.
    eventually(lambda: valkey.call("EXISTS", valkey.keys.sweep), what="a check of all records")
    seen = {name: count(name) for name in jobs}
    for name, how in spoil.items():
        how(valkey, jobs[name])
    eventually(
        lambda: all(count(name) > seen[name] + 1 for name in jobs),
        seconds=60,
        what="more runs of each job",
    )
    kinds = {TroubleKind.STOPPED: "next", TroubleKind.BROKEN: "active"}
    known = valkey.call("KEYS", f"{valkey.keys.prefix}incident:*")
    for kind, name in kinds.items():
        assert any(f"{kind.value}-{jobs[name]}" in key for key in known), known
    # The jobs run again, so their incidents are closed.
    eventually(
        lambda: not [one for one in Incidents(valkey).open() if one.job_id in jobs.values()],
        what="closed incidents",
    )
    result = processes.hermes("fsck")
    assert result.returncode == 0, result.stdout


def test_a_check_beside_a_busy_beat_and_worker_finds_and_repairs_nothing(
    processes: Processes, valkey: Database, cron: Client, home: Path
) -> None:
    """Ticks, claims, retries and results are written between any two commands of a check."""
    processes.celery("worker", "--pool", "threads", "--concurrency", "8")
    beat = processes.celery("beat")
    await_worker(valkey)
    await_leader(valkey)
    script(home, "hi.sh", "echo hi")
    script(home, "fails.sh", "exit 1")
    policies = {
        "hi.sh": Policy(overlap=Overlap.QUEUE_ONE),
        "fails.sh": Policy(retries=1, retry_wait_seconds=1),
    }
    for number in range(20):
        for name, policy in policies.items():
            request = script_job("every 1s", name)
            cron.add(replaced(request, name=f"{name} {number}", policy=policy))
    for number in range(5):
        once = script_job("in 3s", "hi.sh")
        cron.add(replaced(once, name=f"once {number}"))
    eventually(lambda: cron.latest_runs(state=RunState.SUCCEEDED, limit=1), what="a run")
    rounds, found = 0, []
    seen = len(cron.latest_runs(limit=10_000))
    while len(cron.latest_runs(limit=10_000)) < seen + 300 or rounds < 20:
        found += examine(valkey, BrokerNames(), repair=False)[0]
        rounds += 1
    assert found == []
    # The leader checked records at the same time.
    eventually(lambda: valkey.call("EXISTS", valkey.keys.sweep), what="a check by the leader")
    assert "repair." not in processes.log(beat)
    kinds = {one.kind for one in Incidents(valkey).open()}
    assert not kinds & {TroubleKind.BROKEN, TroubleKind.STOPPED}
