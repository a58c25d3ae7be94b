"""Tests Redis Sentinel failovers: the master is killed, frozen or demoted, and jobs keep running.

Replication is asynchronous, so a failover may lose the last writes of the master. An occurrence
dispatched in them is dispatched again with the same run id. Only it may start twice.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from hermes_celery.client import Client
from hermes_celery.core.job import JobRequest
from hermes_celery.core.policy import CatchUp, Overlap, Policy
from hermes_celery.core.run import RunState
from hermes_celery.settings import read_settings
from hermes_celery.store import Database, connect
from hermes_celery.store.keys import Keys
from hermes_celery.wiring.client import open_cron
from tests.acl import sentinel_rules
from tests.projects.bed import Bed
from tests.redis_servers import RedisServer, needs
from tests.sentinels import Sentinels
from tests.support import eventually
from tests.system.conftest import Processes, await_leader, await_worker, script

pytestmark = pytest.mark.system

#: Writes of the last seconds before the master was lost may not have reached the replica. The
#: Sentinels need one more second to agree that the master is down.
FORGOTTEN_SECONDS = 2.5
JOBS = ("one", "two", "three")


class Scene:
    """Runs two beats and a worker behind Sentinels, with jobs due every second."""

    def __init__(self, sentinels: Sentinels, processes: Processes, home: Path) -> None:
        self.sentinels = sentinels
        self.processes = processes
        processes.environment |= {
            "HERMES_REDIS_URL": sentinels.url, "HERMES_CELERY_NAMESPACE": "hermes",
            "HERMES_CELERY_KEEP_RUNS": "10000",
        }  # fmt: skip
        self.started_path = home / "started"
        self.database: Database = sentinels.database(keys=Keys(namespace="hermes"))
        self.cron: Client = open_cron(read_settings(processes.environment))
        line = '"$HERMES_CRON_RUN_ID" "$(date +%s.%N)"'
        script(home, "note.sh", f'echo {line} >> "{self.started_path}"')
        policy = Policy(catch_up=CatchUp.ALL, overlap=Overlap.ALLOW)
        for name in JOBS:
            self.cron.add(
                JobRequest(
                    schedule="every 1s", script="note.sh", no_agent=True, name=name, policy=policy
                )
            )

    def up(self) -> None:
        self.beats = [self.processes.celery("beat") for _ in range(2)]
        self.worker = self.processes.celery("worker")
        await_worker(self.database)
        await_leader(self.database)
        self.await_started(6)

    @property
    def started(self) -> list[tuple[str, float]]:
        """Run id and start time of each started script, in order; times are Unix seconds."""
        if not self.started_path.exists():
            return []
        lines = self.started_path.read_text(encoding="utf-8").splitlines()
        return [(line.split()[0], float(line.split()[1])) for line in lines]

    def await_started(self, count: int) -> None:
        """Wait until `count` more scripts have started."""
        wanted = len(self.started) + count
        try:
            eventually(lambda: len(self.started) >= wanted, what=f"{count} more started scripts")
        except AssertionError:
            for process in (*self.beats, self.worker):
                print(self.processes.log(process)[-4000:])
            raise

    def settle(self, *, until_all_ended: bool = False) -> None:
        """Pause the jobs and wait until no run is running.

        With `until_all_ended` also wait for queued runs. A run whose message the failover lost
        stays queued until its message is sent again, after a minute.
        """
        for name in JOBS:
            self.cron.pause(self.cron.jobs.find(name).id)

        def is_settled() -> bool:
            states = Counter(run.state for run in self.cron.runs.latest(limit=10_000))
            waiting = states[RunState.QUEUED] if until_all_ended else 0
            return not states[RunState.RUNNING] and not waiting

        eventually(is_settled, seconds=100, what="finished runs")

    def check(self, lost_at: list[float]) -> None:
        """Assert that every occurrence is recorded and started once, except for lost writes."""
        runs = {run.id: run for run in self.cron.runs.latest(limit=10_000)}
        first: dict[str, float] = {}
        for run_id, at in self.started:
            assert run_id in runs, "a script started for a run that is not recorded"
            began = first.setdefault(run_id, at)
            is_forgotten = any(
                lost - FORGOTTEN_SECONDS <= began <= lost + FORGOTTEN_SECONDS for lost in lost_at
            )
            assert began == at or is_forgotten, f"{run_id} started at {began} and at {at}"
        for name in JOBS:
            job_id = self.cron.jobs.find(name).id
            instants = sorted(due_at(run.due_at) for run in runs.values() if run.job_id == job_id)
            gaps = [b - a for a, b in pairwise(instants) if b - a > 1.001]
            assert not gaps, f"{name} has occurrences without a record: {gaps}"
        states = Counter(run.state for run in runs.values())
        on_their_way = {RunState.QUEUED, RunState.RUNNING}
        assert set(states) <= {RunState.SUCCEEDED, RunState.LOST} | on_their_way, states


def due_at(instant: datetime | None) -> float:
    """Return Unix seconds."""
    assert instant is not None
    return instant.timestamp()


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    """Yield running Sentinels with their master and replicas."""
    needs("redis-server")
    with Sentinels(tmp_path / "sentinels") as sentinels:
        yield sentinels


@pytest.fixture
def scene(sentinels: Sentinels, processes: Processes, home: Path) -> Iterator[Scene]:
    """Yield a scene whose beats and worker are running jobs."""
    scene = Scene(sentinels, processes, home)
    scene.up()
    yield scene
    scene.database.close()


def await_recovery(
    scene: Scene, master: RedisServer, lost_at: float, *, within_seconds: float
) -> None:
    """Wait until another server is the master and jobs run again."""
    scene.sentinels.await_failover(master)
    promoted_at = time.time()
    scene.await_started(1)
    first_at = time.time()
    scene.await_started(5)
    parts = (promoted_at - lost_at, first_at - promoted_at, time.time() - promoted_at)
    print("promoted after {:.1f} s, the first run {:.1f} s later, six {:.1f} s".format(*parts))
    assert first_at - promoted_at < within_seconds


def test_a_killed_master_delays_jobs_by_seconds_and_loses_no_occurrence(scene: Scene) -> None:
    master, lost_at = scene.sentinels.master, time.time()
    master.signal(signal.SIGKILL)
    await_recovery(scene, master, lost_at, within_seconds=15)
    scene.settle()
    scene.check([lost_at])


def test_a_frozen_master_that_returns_is_a_replica_to_every_process(
    scene: Scene,
) -> None:
    master, lost_at = scene.sentinels.master, time.time()
    master.signal(signal.SIGSTOP)
    await_recovery(scene, master, lost_at, within_seconds=15)
    # When it wakes up it still believes to be the master, and has unread commands.
    master.signal(signal.SIGCONT)
    scene.sentinels.await_demoted(master)
    scene.await_started(4)
    scene.settle()
    scene.check([lost_at])


def test_a_planned_failover_loses_no_occurrence(scene: Scene) -> None:
    """Clients treat the READONLY answers of the demoted master as a lost connection."""
    master, lost_at = scene.sentinels.master, time.time()
    scene.sentinels.fail_over()
    await_recovery(scene, master, lost_at, within_seconds=15)
    scene.settle()
    scene.check([lost_at])


def test_a_project_continues_with_the_new_master(sentinels: Sentinels, tmp_path: Path) -> None:
    server = Guarded(sentinels)
    with Bed("guarded", tmp_path, server=server) as bed:
        bed.environment["BROKER"] = sentinels.broker
        bed.up()
        bed.await_notes("tick", 2)
        bed.await_notes("later", 2)
        master = sentinels.master
        master.signal(signal.SIGKILL)
        sentinels.await_failover(master)
        bed.await_notes("tick", len(bed.notes("tick")) + 3)
        bed.await_notes("later", len(bed.notes("later")) + 3)
        bed.await_run("tick", lambda run: run.state is RunState.SUCCEEDED)
        told = bed.command("-A", "guarded", "doctor")
        assert "at sentinel://127.0.0.1" in told.stdout
        assert not [line for line in told.stdout.splitlines() if line.startswith("fail")]


def test_a_sentinel_user_needs_one_command_and_the_error_names_it_if_missing(
    tmp_path: Path, processes: Processes
) -> None:
    needs("redis-server")
    right = " ".join(sentinel_rules())
    lines = f"user asks on >s3cret {right}\nuser other on >s3cret -@all +ping\n"
    with Sentinels(tmp_path / "sentinels", sentinel_lines=lines) as sentinels:
        for user in ("asks", "other"):
            login = f"&sentinel_username={user}&sentinel_password=s3cret"
            processes.environment["HERMES_REDIS_URL"] = sentinels.url + login
            if user == "asks":
                processes.celery("worker")
                processes.celery("beat")
                database = Database(
                    connect(sentinels.url + login),
                    keys=Keys(namespace=processes.environment["HERMES_CELERY_NAMESPACE"]),
                )
                await_worker(database)
                await_leader(database)
                database.close()
                continue
            refused = processes.celery("worker")
            assert refused.wait(40) == 1
            said = processes.log(refused)
            (sentence,) = [line for line in said.splitlines() if line.startswith("Error: ")]
            assert "each Sentinel's user 'other' may not run SENTINEL|MASTERS" in sentence
            assert "s3cret" not in said
            assert "Traceback" not in said
        login = "&sentinel_username=asks&sentinel_password=wr0ng"
        processes.environment["HERMES_REDIS_URL"] = sentinels.url + login
        told = processes.hermes("list")
        assert (told.returncode, told.stderr.count("\n")) == (1, 1)
        assert "a Sentinel refuses the login" in told.stderr
        assert "wr0ng" not in told.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("replicas", [1, 2])
def test_repeated_failovers_lose_no_occurrence(
    replicas: int, processes: Processes, home: Path, tmp_path: Path
) -> None:
    """The master is killed, frozen or demoted in turn, and comes back each time.

    With two replicas, a master that no replica follows refuses writes.
    """
    needs("redis-server")
    safe = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")
    options = safe if replicas > 1 else ()
    with Sentinels(tmp_path / "sentinels", *options, replicas=replicas) as sentinels:
        scene = Scene(sentinels, processes, home)
        scene.up()
        lost_at = []
        for number in range(6):
            lost_at.append(time.time())
            lose_and_return(scene, number)
        scene.settle(until_all_ended=True)
        scene.check(lost_at)
        scene.database.close()


def lose_and_return(scene: Scene, number: int) -> None:
    """Lose the master in one of three ways, wait until jobs run, and bring it back."""
    master, lost_at = scene.sentinels.master, time.time()
    way = number % 3
    if way == 0:
        master.signal(signal.SIGKILL)
    elif way == 1:
        master.signal(signal.SIGSTOP)
    else:
        scene.sentinels.fail_over()
    await_recovery(scene, master, lost_at, within_seconds=30)
    if way == 0:
        master.end()
        master.start()
    elif way == 1:
        master.signal(signal.SIGCONT)
    scene.sentinels.await_replica()
    scene.await_started(6)


class Guarded:
    """Stands for a bed's server; the Sentinels name the current master."""

    def __init__(self, sentinels: Sentinels) -> None:
        self.url = sentinels.url
        self.port = sentinels.ports[0]
        self._sentinels = sentinels

    def start(self) -> None:
        """Do nothing: the Sentinels have started it."""

    def end(self) -> None:
        """Do nothing: the Sentinels end it."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the current master."""
        self._sentinels.master.signal(number)
