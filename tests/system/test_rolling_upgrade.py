"""Tests an upgrade from 0.1.0 and a rollback, process by process, while jobs keep running.

A project with jobs of every kind runs on one Valkey the whole time. At the end each occurrence has
exactly one run, and each run was started once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hermes_celery.client import Client
from hermes_celery.core.incidents import Trouble, TroubleKind
from hermes_celery.core.job import JobRequest
from hermes_celery.core.policy import CatchUp, Overlap, Policy
from hermes_celery.core.run import DeliveryState, Run, RunState
from hermes_celery.core.work import HttpCall, TaskCall
from hermes_celery.scheduling.declared_jobs import managed_id
from hermes_celery.store import FORMAT, Database, Formats, Incidents
from tests import version_0_1_0
from tests.receivers import HttpReceiver, http_receiver
from tests.support import eventually, replaced
from tests.system.conftest import Processes, script, script_job

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

_PROJECT = """
import os
from celery import Celery
from hermes_celery import Cron

app = Celery("shop", broker=os.environ["BROKER"])
app.conf.task_default_queue = os.environ["HERMES_CELERY_NAMESPACE"]
cron = Cron(app)
cron.add("declared", "every 1s", task="shop.note", args=["declared"])

@app.task(bind=True)
def note(self, word):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(f"{self.request.id}\\n")
    return word
"""
#: Runs every occurrence, even if the tick is late or an earlier run is still running.
_EVERY_OCCURRENCE = Policy(catch_up=CatchUp.ALL, overlap=Overlap.ALLOW, max_active=100)
_PERIOD = timedelta(seconds=1)


class Version(StrEnum):
    """The release whose code a process runs."""

    OLD = "old"
    NEW = "new"


class Fleet:
    """Starts beats, workers and commands of either version."""

    def __init__(self, processes: Processes, valkey: Database, place: Path) -> None:
        self._processes = processes
        self._valkey = valkey
        self._place = place
        self._old = str(version_0_1_0.unpack(place / "0.1.0"))
        self._workers = 0

    def beat(self, version: Version) -> subprocess.Popen[bytes]:
        """Start a beat and wait until it has subscribed to wake-up calls."""
        before = self._waiting()
        process = self._celery(version, "beat", "-S", "hermes_celery.beat:CronScheduler")
        eventually(lambda: self._waiting() > before, what=f"a beat: {version}")
        return process

    def worker(self, version: Version) -> tuple[subprocess.Popen[bytes], str]:
        """Start a worker, wait until it is alive, and return it with the beginning of its name."""
        self._workers += 1
        name = f"{version}{self._workers}@"
        process = self._celery(version, "worker", "-c", "6", "-n", f"{name}%h")

        def is_there() -> bool:
            names = self._valkey.call("ZRANGE", self._valkey.keys.workers, 0, -1)
            return any(str(one).startswith(name) for one in names)

        eventually(is_there, what=f"a worker: {version}")
        return process, name

    def json_output(self, version: Version, *arguments: str) -> Any:
        """Run a command with `--json` and return its decoded output; it must succeed."""
        done = subprocess.run(
            [sys.executable, "-m", "hermes_celery", *arguments, "--json"],
            env=self._environment(version),
            cwd=self._place,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (version, arguments, done.stderr)
        return json.loads(done.stdout)

    def version(self, version: Version) -> str:
        """Return the version number that `--version` prints."""
        done = subprocess.run(
            [sys.executable, "-m", "hermes_celery", "--version"],
            env=self._environment(version),
            cwd=self._place,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.split()[-1]

    def log(self, process: subprocess.Popen[bytes]) -> str:
        return self._processes.log(process)

    def leads(self, beat: subprocess.Popen[bytes]) -> bool:
        """Return whether this beat leads every shard."""
        keys = self._valkey.keys
        shards = range(int(self._valkey.call("GET", keys.shards) or 1))
        leaders = [self._valkey.call("GET", keys.lease_of(shard)) or "" for shard in shards]
        return all(f":{beat.pid}:" in leader for leader in leaders)

    def _celery(self, version: Version, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-B", "-m", "celery", "-A", "shop", *arguments]
        path = self._environment(version)["PYTHONPATH"]
        return self._processes.start(command, self._place, PYTHONPATH=path)

    def _environment(self, version: Version) -> dict[str, str]:
        first = [self._old] if version is Version.OLD else []
        path = os.pathsep.join([*first, str(self._place)])
        return {**self._processes.environment, "PYTHONPATH": path}

    def _waiting(self) -> int:
        return int(self._valkey.call("PUBSUB", "NUMSUB", self._valkey.keys.wake)[1])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Create the project and return its directory, in which its processes run."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "shop.py").write_text(_PROJECT, encoding="utf-8")
    return tmp_path / "shop"


@pytest.fixture
def fleet(processes: Processes, valkey: Database, valkey_url: str, place: Path) -> Fleet:
    """Return a starter of processes of both versions."""
    processes.environment |= {
        "BROKER": valkey_url.replace("unix://", "redis+socket://"),
        "NOTES": str(place / "notes"),
        "HERMES_CELERY_WRAP": "off",
        "HERMES_CELERY_KEEP_RUNS": "1000",
        "HERMES_CELERY_HTTP_ALLOW_PRIVATE": "on",
        "HERMES_CELERY_GRACE": "20",
    }
    return Fleet(processes, valkey, place)


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    """Yield the web server that the HTTP job calls."""
    with http_receiver() as receiver:
        yield receiver


class AllJobs:
    """Adds jobs of every kind and checks their runs."""

    def __init__(self, cron: Client, valkey: Database, home: Path, place: Path) -> None:
        self._cron = cron
        self._valkey = valkey
        self._home = home
        self._place = place
        self.ids: dict[str, str] = {}

    def add(self, http_url: str) -> None:
        """Add all jobs."""
        note = 'echo "$HERMES_CRON_RUN_ID" >> {}; echo "$HERMES_CRON_RUN_ID"'
        for name in ("script", "delivered", "later", "held", "first", "second"):
            extra = "; sleep 0.4" if name in ("held", "first", "second") else ""
            script(self._home, f"{name}.sh", note.format(name) + extra)
        script(
            self._home, "retried.sh", note.format("retried") + '; [ "$HERMES_CRON_ATTEMPT" = 2 ]'
        )
        script(self._home, "failing.sh", "echo no disk >&2; exit 3")
        queue_one = Policy(overlap=Overlap.QUEUE_ONE)
        again = Policy(retries=1, retry_wait_seconds=1)
        for request in (
            self._of("script", policy=_EVERY_OCCURRENCE),
            self._of("delivered", policy=_EVERY_OCCURRENCE, deliver="file://delivered"),
            self._of("later", policy=_EVERY_OCCURRENCE),
            self._of("held", policy=queue_one),
            self._of("first", group="g", group_limit=1),
            self._of("second", group="g", group_limit=1),
            self._of("retried", policy=again),
            self._of("failing", failure_deliver="file://failures"),
            JobRequest(schedule="every 1s", name="http", policy=_EVERY_OCCURRENCE,
                       http=HttpCall(url=http_url, method="POST", body="x")),
            JobRequest(schedule="every 1s", name="task", policy=_EVERY_OCCURRENCE,
                       task=TaskCall(name="shop.note", args=["task"])),
        ):  # fmt: skip
            self.ids[request.name or ""] = self._cron.add(request).id
        self.ids["paused"] = self._cron.add(
            replaced(script_job("every 1s", "script.sh"), name="paused"), paused=True
        ).id
        self.ids["declared"] = managed_id("project:shop", "declared")
        self._add_unknown_fields("later")

    def _of(self, name: str, **fields: Any) -> JobRequest:
        return JobRequest(
            schedule="every 1s", script=f"{name}.sh", no_agent=True, name=name, **fields
        )

    def _add_unknown_fields(self, name: str) -> None:
        """Add stored fields that neither version knows, as a later version may do."""
        key = self._valkey.keys.job(self.ids[name])
        spec = json.loads(self._valkey.call("HGET", key, "spec"))
        spec |= {"colour": "green", "policy": {**spec["policy"], "mood": [1, 2]}}
        self._valkey.call("HSET", key, "spec", msgspec.json.encode(spec), "shape", "round")

    def runs(self, name: str) -> list[Run]:
        return self._cron.latest_runs(self.ids[name], limit=10_000)

    def ran(self, name: str, *, since: int) -> bool:
        """Return whether a job has more than `since` finished runs."""
        return sum(run.state.is_final for run in self.runs(name)) > since

    def await_more_runs(self) -> None:
        """Wait until each active job has finished at least two more runs."""
        names = [name for name in self.ids if name not in ("paused", "declared")]
        before = {name: sum(run.state.is_final for run in self.runs(name)) for name in names}
        for name in names:
            eventually(lambda name=name: self.ran(name, since=before[name] + 1), what=name)  # type: ignore[misc]

    def performed_by(self, worker: str) -> bool:
        """Return whether a worker has successfully finished a script run and a task run."""
        return all(
            any(
                (run.worker or "").startswith(worker) and run.state is RunState.SUCCEEDED
                for run in self.runs(name)
            )
            for name in ("script", "task")
        )

    def await_all_finished(self) -> None:
        """Pause all jobs and wait until every run and delivery has finished."""
        self._cron.pause_all()

        def is_quiet_now() -> bool:
            runs = [run for name in self.ids if name != "paused" for run in self.runs(name)]
            is_quiet = all(run.state.is_final for run in runs)
            return is_quiet and all(run.delivery is not DeliveryState.PENDING for run in runs)

        eventually(is_quiet_now, seconds=90, what="finished runs and deliveries")

    def check(self, *, requests: int) -> None:
        """Assert that no occurrence was lost and no run started twice."""
        for name in ("script", "delivered", "later"):
            self._assert_each_started_once(name, self._recorded(self._home / "scripts" / name))
        self._assert_each_started_once("task", self._recorded(self._place / "notes"))
        delivered = self._recorded(self._home / "cron" / "output" / "delivered")
        assert delivered == Counter(run.id for run in self.runs("delivered"))
        assert requests == len(self._assert_each_started_once("http", None))
        for name in ("held", "first", "second"):
            self._assert_succeeded_or_skipped(name)
        self._assert_succeeded_or_skipped("retried")
        succeeded = [run for run in self.runs("retried") if run.state is RunState.SUCCEEDED]
        assert {run.attempt for run in succeeded} == {2}
        assert {run.state for run in self.runs("failing")} <= {RunState.FAILED, RunState.SKIPPED}
        assert self.runs("paused") == []
        self._assert_unknown_fields_kept("later")
        # This version adds the place of the declaration, which is one new revision.
        assert self._cron.show("declared").revision <= 2, "both versions declare the same"

    def _assert_each_started_once(self, name: str, starts: Counter[str] | None) -> list[Run]:
        runs = self.runs(name)
        assert {run.state for run in runs} == {RunState.SUCCEEDED}, name
        instants = sorted(run.due_at for run in runs)
        assert {later - earlier for earlier, later in pairwise(instants)} == {_PERIOD}, name
        if starts is not None:
            known = {run.id for run in runs}
            assert {run_id: n for run_id, n in starts.items() if run_id in known} == dict.fromkeys(
                known, 1
            ), name
        return runs

    def _assert_succeeded_or_skipped(self, name: str) -> None:
        """Assert that each run succeeded, or was skipped for a recorded reason."""
        starts = self._recorded(self._home / "scripts" / name)
        for run in self.runs(name):
            assert run.state in (RunState.SUCCEEDED, RunState.SKIPPED), (name, run)
            assert (run.state is RunState.SKIPPED) == bool(run.reason), (name, run)
            if run.state is RunState.SUCCEEDED:
                assert starts[run.id] == run.attempt, (name, run)

    def _assert_unknown_fields_kept(self, name: str) -> None:
        fields = self._valkey.call("HGETALL", self._valkey.keys.job(self.ids[name]))
        spec = json.loads(fields["spec"])
        assert (spec["colour"], spec["policy"]["mood"], fields["shape"]) == (
            "green",
            [1, 2],
            "round",
        )

    @staticmethod
    def _recorded(path: Path) -> Counter[str]:
        return Counter(path.read_text(encoding="utf-8").split())


@pytest.fixture
def jobs(cron: Client, valkey: Database, home: Path, place: Path, fleet: Fleet) -> AllJobs:
    return AllJobs(cron, valkey, home, place)


def replace_leader(
    fleet: Fleet, beat: subprocess.Popen[bytes], by: subprocess.Popen[bytes], *, how: int
) -> None:
    """End a beat with the signal `how` and wait until the beat `by` leads."""
    os.kill(beat.pid, how)
    eventually(lambda: fleet.leads(by), what="the other beat's leadership")


def replace_worker(
    fleet: Fleet, jobs: AllJobs, worker: subprocess.Popen[bytes], version: Version
) -> subprocess.Popen[bytes]:
    """Start a new worker, wait for its first runs, stop the old one warmly, return the new one."""
    new, name = fleet.worker(version)
    eventually(lambda: jobs.performed_by(name), what=f"runs of {name}")
    worker.terminate()
    assert worker.wait(60) == 0, fleet.log(worker)[-3000:]
    return new


def assert_both_versions_read(fleet: Fleet, jobs: AllJobs) -> None:
    """Assert that the commands of both versions show all jobs, runs and incidents."""
    for version in Version:
        names = {job["name"] for job in fleet.json_output(version, "list")}
        assert names == set(jobs.ids), version
        assert len(fleet.json_output(version, "runs", "script")) > 0
        troubles = fleet.json_output(version, "incidents")
        assert any(trouble["job_name"] == "failing" for trouble in troubles), version
        assert fleet.json_output(version, "status")["leader"], version
        shown = fleet.json_output(version, "show", "later")
        assert shown["script"] == "later.sh", version


def test_an_upgrade_and_a_rollback_process_by_process_lose_and_double_no_run(
    fleet: Fleet, jobs: AllJobs, valkey: Database, receiver: HttpReceiver
) -> None:
    assert fleet.version(Version.OLD) == "0.1.0"
    assert fleet.version(Version.NEW) != "0.1.0"
    # 0.1.0 alone.
    jobs.add(f"http://{receiver.address}/")
    beat = fleet.beat(Version.OLD)
    worker, name = fleet.worker(Version.OLD)
    eventually(lambda: jobs.performed_by(name), what="runs of 0.1.0")
    jobs.await_more_runs()
    # Upgrade the worker first: an old beat with a new worker.
    worker = replace_worker(fleet, jobs, worker, Version.NEW)
    old_worker, name = fleet.worker(Version.OLD)
    # Then the beat: a new beat with an old and a new worker.
    new_beat = fleet.beat(Version.NEW)
    replace_leader(fleet, beat, new_beat, how=signal.SIGKILL)
    eventually(lambda: jobs.performed_by(name), what="runs of 0.1.0 under a new beat")
    jobs.await_more_runs()
    await_migration(valkey)
    assert_both_versions_read(fleet, jobs)
    # Records that only this version knows.
    note_new_kinds(valkey)
    # Roll back: an old beat leads and reads the records of the new one.
    worker = replace_worker(fleet, jobs, worker, Version.NEW)
    old_beat = fleet.beat(Version.OLD)
    replace_leader(fleet, new_beat, old_beat, how=signal.SIGTERM)
    jobs.await_more_runs()
    worker.terminate()
    assert worker.wait(60) == 0
    jobs.await_more_runs()
    assert_both_versions_read(fleet, jobs)
    assert {old_beat.poll(), old_worker.poll()} == {None}
    assert "Traceback" not in fleet.log(old_beat)
    jobs.await_all_finished()
    jobs.check(requests=len(receiver.requests))


def await_migration(valkey: Database) -> None:
    """Wait until the leader has stored its format number."""
    eventually(lambda: Formats(valkey).read().format == FORMAT, what="the stored format")
    assert Formats(valkey).read().needs == 1


def note_new_kinds(valkey: Database) -> None:
    """Record one incident of each kind, as this version stores it."""
    for kind in TroubleKind:
        trouble = Trouble(kind=kind, subject="", text=f"about {kind}")
        Incidents(valkey).report(trouble, now_ms=valkey.now_ms())


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("first", list(Version))
def test_repeated_upgrades_and_rollbacks_lose_and_double_no_run(
    fleet: Fleet,
    jobs: AllJobs,
    valkey: Database,
    receiver: HttpReceiver,
    shards: int,
    first: Version,
) -> None:
    valkey.call("SET", valkey.keys.shards, shards)
    valkey.forget_shards()
    jobs.add(f"http://{receiver.address}/")
    other = Version.OLD if first is Version.NEW else Version.NEW
    beat, (worker, _) = fleet.beat(first), fleet.worker(first)
    for round_number in range(6):
        to = other if round_number % 2 == 0 else first
        how = signal.SIGKILL if round_number % 3 else signal.SIGTERM
        standby = fleet.beat(to)
        jobs.await_more_runs()
        replace_leader(fleet, beat, standby, how=how)
        beat = standby
        jobs.await_more_runs()
        worker = replace_worker(fleet, jobs, worker, to)
        assert_both_versions_read(fleet, jobs)
        note_new_kinds(valkey)
    jobs.await_all_finished()
    jobs.check(requests=len(receiver.requests))


def test_processes_stop_and_refuse_to_start_if_the_stored_format_needs_a_newer_version(
    fleet: Fleet, processes: Processes, valkey: Database
) -> None:
    beat = fleet.beat(Version.NEW)
    worker, _ = fleet.worker(Version.NEW)
    text = json.dumps({"format": FORMAT + 1, "needs": FORMAT + 1, "program": "9.0"})
    valkey.call("SET", valkey.keys.format, text)
    for process in (beat, worker):
        assert process.wait(60) == 0
        assert "program.too_old" in fleet.log(process)
        assert "upgrade hermes-celery on this machine" in fleet.log(process)
    assert valkey.call("GET", valkey.keys.lease) is None
    for part in ("beat", "worker"):
        refused = processes.celery(part)
        assert refused.wait(60) == 1
        assert processes.log(refused).count("Error: what is stored in namespace") == 1
        assert "Traceback" not in processes.log(refused)
